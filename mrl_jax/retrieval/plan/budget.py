"""How many dims of which numbers a budget of bytes holds, and at what cost."""

import math
import re
from typing import NamedTuple

from mrl_jax import checks
from mrl_jax.retrieval import cost

# Bits of a number.
KINDS = {'float32': 32, 'bfloat16': 16, 'int8': 8, 'binary': 1}
_UNITS = {
  f'{prefix}{i}B': (1024 if i else 1000) ** power
  for power, prefix in enumerate(('', 'K', 'M', 'G', 'T', 'P'))
  for i in ('', 'i')
}


class Fit(NamedTuple):
  """What fits, and what a query costs then.

  `mflops` and `query_bytes` are of the exact search at `dims`, `adaptive_…` of
  a shortlist on the first dims and a rerank at all.
  """

  kind: str
  dims: int
  row_bytes: int
  mflops: float
  query_bytes: float
  adaptive_mflops: float
  adaptive_query_bytes: float


@checks.takes(
  rows=checks.whole(1, 2**63),
  budget=checks.number(1),
  shortlist_dim=checks.whole(),
  shortlist=checks.whole(1, 2**63),
  width=checks.whole(),
)
def fits(
  rows: int,
  budget: float,
  *,
  shortlist_dim: int = 16,
  shortlist: int = 200,
  width: int | None = None,
) -> list[Fit]:
  """The widest prefix of each kind that `budget` bytes hold for all rows.

  `width` is the embedding's own, and a bound. A kind of which no dim fits has
  dims 0. Raises ValueError for numbers that are not positive.
  """
  for name, value in (
    ('rows', rows), ('budget', budget), ('shortlist_dim', shortlist_dim),
    ('shortlist', shortlist),
  ):  # fmt: skip
    if not value > 0:
      raise ValueError(f'{name} {value}: must be positive')
  if shortlist > rows:
    raise ValueError(f'shortlist {shortlist}: must be at most {rows}, the rows')
  bytes_of = lambda dims, bits: math.ceil(dims * bits / 8)
  found = []
  for kind, bits in KINDS.items():
    # Whole bytes: a row of 9 bits takes two.
    dims = int(budget // rows) * 8 // bits
    dims = dims if width is None else min(dims, width)
    scan = min(shortlist_dim, dims)
    row_bytes = bytes_of(dims, bits)
    scan_bytes = rows * bytes_of(scan, bits)
    found.append(
      Fit(
        kind,
        dims,
        row_bytes,
        cost.mflops(rows, (dims,)),
        rows * row_bytes,
        cost.mflops(rows, (scan, dims), (shortlist,)),
        scan_bytes + shortlist * row_bytes,
      )
    )
  return found


def parse_bytes(text: str) -> int:
  """'100GB', '1.5TiB' or plain bytes; decimal units but for KiB and the like.

  Raises ValueError for anything else.
  """
  match = re.fullmatch(r'([\d.]+(?:e\d+)?) ?([kKMGTP]?i?B)?', text)
  unit = (match[2] or 'B').replace('k', 'K') if match else None
  if unit not in _UNITS:
    raise ValueError(f'{text!r}: must be bytes, such as 100GB or 1.5TiB')
  try:
    return round(float(match[1]) * _UNITS[unit])
  except (ValueError, OverflowError):
    raise ValueError(f'{text!r}: is no finite number of bytes') from None


def parse_count(text: str) -> int:
  """'50e6' or '50000000'; ValueError for what is no whole number."""
  value = float(text)
  if not math.isfinite(value) or value != int(value):
    raise ValueError(f'{text!r}: must be a whole number')
  return int(value)
