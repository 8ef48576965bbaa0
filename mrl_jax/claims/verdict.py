"""What was found of a claim, and whether it holds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mrl_jax.claims.evidence import Run
from mrl_jax.compare.means import difference
from mrl_jax.compare.means import Mean
from mrl_jax.terminal.tables import Table

# Points of accuracy that count as none.
SLACK = 0.5


class Finding(NamedTuple):
  """What the runs say of a claim.

  `holds` is None where they cannot tell; `measured` then says why.
  """

  holds: bool | None
  measured: str
  runs: Sequence[Run] = ()
  table: Table | None = None


class Claim(NamedTuple):
  """A claim, where the paper makes it, and the rule it is judged by."""

  claim: str
  source: str
  rule: str


def word(finding: Finding) -> str:
  """How a finding is named in tables."""
  if finding.holds is None:
    return 'not decided'
  return 'holds' if finding.holds else 'does not hold'


def undecided(why: str) -> Finding:
  return Finding(None, why)


def is_no_worse(lead: float, noise: float) -> bool:
  """Whether a lead is not below nothing, but for slack or noise."""
  return lead >= -SLACK or lead >= -noise


def too_few(*means: Mean) -> bool:
  """Whether there is a mean of one seed, whose error is not known."""
  return any(x.count < 2 for x in means)


def compared(
  named: Mapping[str, Mapping[int, Mean]],
) -> tuple[dict[int, tuple[float, float]], Table]:
  """The lead of the second over the first at each width, and a table of both.

  `named` has two names with the means of each by width. A lead comes with two
  standard errors of it. There are none where a mean is of one seed.
  """
  first, second = named.values()
  widths = [w for w in first if w in second]
  if too_few(*(x[w] for x in (first, second) for w in widths)):
    widths = []
  leads = {w: difference(second[w], first[w]) for w in widths}
  rows = [(w, str(first[w]), str(second[w]), *leads[w]) for w in widths]
  return leads, Table(('width', *named, 'lead', 'two errors'), rows)
