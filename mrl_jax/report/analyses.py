"""Sections on the analyses, one for each file of the folder `analysis`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrl_jax.report import plotly_charts
from mrl_jax.report import series
from mrl_jax.report.content import Figure
from mrl_jax.report.content import FoldedTable
from mrl_jax.report.content import Section
from mrl_jax.terminal.tables import Table

Record = Mapping[str, Any]


def cascade(record: Record) -> Section:
  """cascade_curve.json: accuracy and mean width of a cascade."""
  dims, single = record['dims'], record['single']
  columns = [record[n] for n in ('expected_dim', 'cumulated_dim', 'accuracy')]
  expected, _, accuracy = columns
  rows = [
    (dim, *(_spread(x['mean'][g], x['std'][g]) for x in columns))
    for g, dim in enumerate(dims)
  ]
  header = ('up to width', 'expected dims', 'cumulated', 'accuracy %')
  return Section(
    'Cascade',
    'As wide as an example needs',
    f'Where a width is sure enough of its answer it stays with it; else the '
    f'next is asked. On average {expected["mean"][-1]:.3g} of {dims[-1]} '
    f'numbers are read, and {accuracy["mean"][-1]:.2f} % of the answers are '
    f'right. The full width alone: {single[-1]:.2f} %.',
    [
      Figure(
        'plot-cascade',
        plotly_charts.lines(
          series.cascade(record),
          dims,
          'accuracy, %',
          x_label='width that an example takes on average',
        ),
        f'Thresholds are fitted on {100 * record["fit_share"]:.0f} % of the '
        f'evaluation split and tried on the rest, {record["repeats"]} times; '
        'each diamond lets the cascade go one width further.',
      )
    ],
    [FoldedTable('The numbers', Table(header, rows))],
    [
      'Expected dims count the last width that was asked; cumulated ones all '
      'that were.'
    ],
  )


def oracle(record: Record, per_class: Record | None) -> Section:
  """oracle.json and per_class.json: which widths are right, and agree."""
  dims, total, never = record['dims'], record['examples'], record['never']
  shares = series.smallest_correct(record)
  agreement = plotly_charts.matrix(
    series.percent(record['agreement']), dims, 'predicted alike'
  )
  trends = Table(('trend', 'classes'), list(record['trends'].items()))
  numbers = [FoldedTable('How classes change with width', trends)]
  if per_class:
    rows = list(zip(per_class['classes'], *per_class['accuracy'], strict=True))
    header = ('class', *map(str, per_class['dims']))
    table = Table(header, rows)
    numbers.append(FoldedTable('Each class, % at each width', table))
  expected = record['expected_dim']
  return Section(
    'Oracle',
    'What each width knows',
    f'{shares[str(dims[0])]:.1f} % of the examples need {dims[0]} numbers and '
    'no more. '
    'Who always knew the smallest width that is right would reach '
    f'{record["accuracy"]:.2f} % with '
    f'{"–" if expected is None else f"{expected:.3g}"} numbers '
    f'on average; a vote of all widths reaches {record["majority"]:.2f} %.',
    [
      Figure(
        'plot-oracle',
        plotly_charts.bars(shares, 'smallest width that is right'),
        f'Examples by the smallest width that is right; on {never:,} of '
        f'{total:,} none is.',
        'How little is enough?',
        'square',
      ),
      Figure(
        'plot-agreement',
        agreement,
        'Examples, in percent, on which two widths predict the same class.',
        'Do the widths agree?',
        'square',
      ),
    ],
    numbers,
  )


def structure(record: Record) -> Section:
  """structure.json: the neighbours and variance that prefixes share."""
  dims = record['dims']
  overlap = plotly_charts.matrix(
    series.percent(record['overlap']), dims, 'of the neighbours shared'
  )
  shares = series.of_full_width(record)
  return Section(
    'Neighbours',
    'What the widths share',
    figures=[
      Figure(
        'plot-overlap',
        overlap,
        f'Overlap (Jaccard, percent) of the {record["k"]} nearest neighbours '
        'of an example at two widths.',
        'Do they see the same neighbours?',
        'square',
      ),
      Figure(
        'plot-variance',
        plotly_charts.lines(
          {'variance': shares['variance']}, dims, 'variance, %'
        ),
        "Share of the full embedding's variance that lies in each prefix.",
        'How much varies in a prefix?',
        'square',
      ),
    ],
  )


def calibration(record: Record) -> Section:
  """calibration.json: whether confidences agree with accuracies."""
  dims, errors = record['dims'], record['ece']
  table = Table(('width', 'error %'), list(zip(dims, errors, strict=True)))
  return Section(
    'Calibration',
    'Right as often as sure?',
    figures=[
      Figure(
        'plot-reliability',
        plotly_charts.reliability(series.reliability(record)),
        'Below the dotted line a width is surer than it should be. Bins '
        'with fewer than 1 % of the examples are left out.',
      ),
      Figure(
        'plot-ece',
        plotly_charts.lines(
          series.by_width(dims, {'calibration error': errors}),
          dims,
          'calibration error, %',
        ),
        'Mean distance of confidence and accuracy over equal bins.',
      ),
    ],
    tables=[FoldedTable('The numbers', table)],
  )


def few_shot(record: Record, dims: Sequence[int]) -> Section:
  """few_shot.json: accuracy on classes known by a few examples."""
  settings, accuracies = record['settings'], series.few_shot(record)
  rows = [
    (dim, *(_spread(s['accuracy'][g], s['std'][g]) for s in settings))
    for g, dim in enumerate(record['dims'])
  ]
  chart = plotly_charts.lines(accuracies, dims, 'accuracy, %')
  return Section(
    'Few-shot',
    'From a few examples',
    figures=[
      Figure(
        'plot-few-shot',
        chart,
        'An example goes to the class whose few known examples have the '
        'nearest mean; nothing is trained.',
      )
    ],
    tables=[FoldedTable('The numbers', Table(('width', *accuracies), rows))],
  )


def superclasses(record: Record) -> Section:
  """superclass.json: accuracy on groups of classes, and where errors lie."""
  dims, names = record['dims'], record['groups']
  table = Table(
    ('group', *map(str, dims)),
    list(zip(names, *record['by_group'], strict=True)),
  )
  errors = {
    'inside the group': list(map(_mean, record['inside'])),
    'across groups': list(map(_mean, record['across'])),
  }
  return Section(
    'Superclasses',
    'Coarser classes',
    figures=[
      Figure(
        'plot-superclass',
        plotly_charts.lines(
          series.by_width(dims, {'right group': record['accuracy']}),
          dims,
          'accuracy, %',
        ),
        'Predictions that lie in the right group of classes.',
      ),
      Figure(
        'plot-confusion',
        plotly_charts.lines(
          series.by_width(dims, errors), dims, 'wrong answers, %'
        ),
        'Wrong classes of the right group, and of another; means over groups.',
      ),
    ],
    tables=[FoldedTable('Right group, % at each width', table)],
  )


def _mean(values: Sequence[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if known else None


def _spread(mean: float, std: float) -> str:
  return f'{mean:.2f} ± {std:.2f}'
