"""The claims as a table, as records, and as one page."""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from mrl_jax.claims import command
from mrl_jax.claims import verdict
from mrl_jax.claims.verdict import Claim
from mrl_jax.claims.verdict import Finding
from mrl_jax.report import page as page_lib
from mrl_jax.report.content import FoldedTable
from mrl_jax.report.content import Headline
from mrl_jax.report.content import Section
from mrl_jax.report.content import Tile
from mrl_jax.terminal.tables import Table


class Judged(NamedTuple):
  """A claim by its number, and what was found of it."""

  number: int
  claim: Claim
  finding: Finding


def table(judged: Sequence[Judged]) -> Table:
  """A row for each claim."""
  return Table(
    ('#', 'claim', 'source', 'measured', 'verdict'),
    [
      (
        x.number,
        x.claim.claim,
        x.claim.source,
        x.finding.measured,
        verdict.word(x.finding),
      )
      for x in judged
    ],
  )


def records(judged: Sequence[Judged]) -> list[dict]:
  """The same for programs, with the workdirs that each claim rests on."""
  return [
    {
      'number': x.number,
      **x.claim._asdict(),
      'measured': x.finding.measured,
      'verdict': verdict.word(x.finding),
      'workdirs': [str(run.workdir.path) for run in x.finding.runs],
    }
    for x in judged
  ]


def render(judged: Sequence[Judged], folder: pathlib.Path) -> str:
  """One HTML file that needs no network."""
  words = [verdict.word(x.finding) for x in judged]
  counts = {
    x: words.count(x) for x in ('holds', 'does not hold', 'not decided')
  }
  headline = Headline(
    over=f'arXiv 2205.13147, by the runs in {folder}',
    before='Of the claims, ',
    stress=f'{counts["holds"]} hold',
    after=f' of {len(judged)}.',
    lead='Each has a rule, which was stated before its runs were made.',
    tiles=[Tile(str(count), name) for name, count in counts.items()],
    dolls=[],
  )
  return page_lib.render(
    'The claims, measured',
    headline,
    [_section(x, folder) for x in judged],
    footer='Each run lies in the folder that is named with its claim; '
    'config.json there has its settings, metrics.jsonl what it measured.',
  )


def _section(judged: Judged, folder: pathlib.Path) -> Section:
  claim, finding = judged.claim, judged.finding
  rows = []
  for run in finding.runs:
    path = run.workdir.path
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    rows.append((str(name), command.of(run)))
  shown = [('what was measured', finding.table)] if finding.table else []
  if rows:
    shown.append(('runs', Table(('workdir', 'command'), rows)))
  return Section(
    str(judged.number),
    f'{judged.number}. {claim.claim}',
    f'{verdict.word(finding).capitalize()}. {finding.measured}',
    tables=[FoldedTable(name, x) for name, x in shown],
    notes=[f'Source: {claim.source}.', f'Rule: {claim.rule}'],
  )
