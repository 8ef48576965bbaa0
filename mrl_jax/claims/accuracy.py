"""Claims on the accuracy of each width, beside other ways to it."""

from collections.abc import Sequence

from mrl_jax.claims import verdict
from mrl_jax.claims.evidence import by_width
from mrl_jax.claims.evidence import Evidence
from mrl_jax.claims.evidence import Run
from mrl_jax.claims.verdict import Claim
from mrl_jax.claims.verdict import Finding
from mrl_jax.claims.verdict import undecided
from mrl_jax.compare.means import Mean
from mrl_jax.compare.means import mean
from mrl_jax.terminal.tables import Table

_TOP1, _KNN1 = 'val/top1', 'val/knn1'

SEPARATE = Claim(
  'One MRL model is as accurate as models trained for each width.',
  'Table 1',
  'At each width its top-1 is at most 0.5 points lower, or lower by less than '
  'two standard errors.',
)


def separate(evidence: Evidence) -> Finding:
  runs, fixed = evidence.plain('MRL'), evidence.fixed()
  nested = by_width(runs, _TOP1)
  alone = {w: by_width(x, _TOP1)[w] for w, x in fixed.items()}
  leads, table = verdict.compared({'alone': alone, 'MRL': nested})
  if not leads:
    return undecided('needs two seeds of MRL and of each width alone')
  worst = min(leads, key=lambda w: leads[w][0])
  return Finding(
    all(verdict.is_no_worse(*lead) for lead in leads.values()),
    f'{len(leads)} widths; the smallest lead is {leads[worst][0]:+.2f} points '
    f'at {worst}.',
    [*runs, *(x for w in leads for x in fixed[w])],
    table,
  )


BASELINES = Claim(
  'MRL beats random dims, SVD and slimmable networks, most at small widths.',
  'Tables 1 and 2',
  'At the three smallest widths its 1-NN top-1 is higher than that of each, '
  'and its lead is larger at the smallest width than at the largest.',
)


def baselines(evidence: Evidence) -> Finding:
  runs, fixed = evidence.plain('MRL'), evidence.fixed()
  nested = by_width(runs, _KNN1)
  slim = evidence.plain('Slim')
  full = fixed[max(fixed)] if fixed else []
  found = _projections(full)
  if slim:
    found['slimmable'] = by_width(slim, _KNN1)
  widths = [w for w in _trained(runs) if all(w in x for x in found.values())]
  few = min(len(runs), len(full), len(slim))
  if len(found) < 3 or len(widths) < 3 or few < 2:
    return undecided(
      'needs two seeds of MRL, of the fixed head at the full width with '
      '--mode=analyze, and of slimmable networks, which are measured at the '
      'three smallest widths'
    )
  leads = {
    name: [nested[w].mean - x[w].mean for w in widths[:3]]
    for name, x in found.items()
  }
  last = {
    name: nested[widths[-1]].mean - x[widths[-1]].mean
    for name, x in found.items()
  }
  least, width, of = min(
    (x, w, name)
    for name, lead in leads.items()
    for x, w in zip(lead, widths[:3], strict=True)
  )
  return Finding(
    all(min(lead) > 0 and lead[0] > last[name] for name, lead in leads.items()),
    f'At {widths[0]} it leads by '
    + ', '.join(f'{x[0]:+.1f} ({name})' for name, x in leads.items())
    + f'; at {widths[-1]} by '
    + ', '.join(f'{x:+.1f}' for x in last.values())
    + f'; the least of the three smallest widths is {least:+.2f} ({of} at '
    f'{width}).',
    [*runs, *full, *slim],
    Table(
      ('width', 'MRL', *found),
      [(w, *(str(x[w]) for x in (nested, *found.values()))) for w in widths],
    ),
  )


def _projections(full: Sequence[Run]) -> dict[str, dict[int, Mean]]:
  """1-NN of random dims and SVD of full-width embeddings, by width."""
  found = (run.record(run.workdir.analysis, 'baselines.json') for run in full)
  records = [*filter(None, found)]
  found = {}
  for name in ('random dims', 'SVD'):
    columns = [
      dict(zip(x['dims'], x['knn1'][name], strict=True)) for x in records
    ]
    there = [
      w
      for w in (columns[0] if columns else ())
      if all(column.get(w) is not None for column in columns)
    ]
    found[name] = {w: mean(column[w] for column in columns) for w in there}
  return {name: x for name, x in found.items() if x}


SHARED = Claim(
  'MRL-E falls behind MRL only at the smallest width.',
  'Section 3 and Table 1',
  'At the smallest width its top-1 is lower by more than 0.5 points and two '
  'standard errors; at no other.',
)


def shared(evidence: Evidence) -> Finding:
  runs, tied = evidence.plain('MRL'), evidence.plain('MRL-E')
  nested, efficient = by_width(runs, _TOP1), by_width(tied, _TOP1)
  leads, table = verdict.compared({'MRL': nested, 'MRL-E': efficient})
  widths = [*leads]
  if len(widths) < 2:
    return undecided('needs two seeds of MRL and of MRL-E')
  behind = [w for w in widths if not verdict.is_no_worse(*leads[w])]
  return Finding(
    behind == widths[:1],
    f'It falls behind at {", ".join(map(str, behind)) or "no width"}; at '
    f'{widths[0]} by {-leads[widths[0]][0]:.2f} points.',
    [*runs, *tied],
    table,
  )


BETWEEN = Claim(
  'Widths between the trained ones are as good as their neighbours.',
  'Section 4.1, Figure 5',
  'The 1-NN top-1 of each lies between those of the trained widths around it, '
  'within two standard errors.',
)


def between(evidence: Evidence) -> Finding:
  runs = evidence.plain('MRL')
  found, trained = by_width(runs, _KNN1), _trained(runs)
  widths = [
    w for w in found if w not in trained and trained[0] < w < trained[-1]
  ]
  if not widths or verdict.too_few(*found.values()):
    return undecided('needs two seeds of MRL with eval_dims')
  rows, outside = [], []
  for w in widths:
    low = found[max(x for x in trained if x < w)]
    high = found[min(x for x in trained if x > w)]
    noise = 2 * max(low.error, high.error, found[w].error)
    least, most = sorted((low.mean, high.mean))
    if not least - noise <= found[w].mean <= most + noise:
      outside.append(w)
    rows.append((w, str(low), str(found[w]), str(high), noise))
  return Finding(
    not outside,
    f'{len(widths) - len(outside)} of {len(widths)} widths lie between.',
    runs,
    Table(('width', 'below', 'here', 'above', 'two errors'), rows),
  )


def _trained(runs: Sequence[Run]) -> Sequence[int]:
  return tuple(runs[0].config.nesting_dims) if runs else (0, 0)
