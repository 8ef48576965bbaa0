"""The parts of the page on what the analysis found, one file each."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrl_jax.report import plotly_charts
from mrl_jax.report import series as plotted
from mrl_jax.report.content import Figure
from mrl_jax.report.content import Numbers
from mrl_jax.report.content import Section
from mrl_jax.terminal.tables import Table

Record = Mapping[str, Any]


def cascade(curve: Record) -> Section:
  """cascade_curve.json: as wide as an example needs, against one width."""
  dims, single = curve['dims'], curve['single']
  columns = [curve[n] for n in ('expected_dim', 'cumulated_dim', 'accuracy')]
  expected, _, accuracy = columns
  points = list(zip(expected['mean'], accuracy['mean'], strict=True))
  rows = [
    (dim, *(f'{x["mean"][g]:.2f} ± {x["std"][g]:.2f}' for x in columns))
    for g, dim in enumerate(dims)
  ]
  header = ('up to width', 'expected dims', 'cumulated', 'accuracy %')
  return Section(
    'cascade',
    'Cascade',
    'As wide as an example needs',
    f'Where a width is sure enough of its answer it stays with it; else the '
    f'next is asked. On average {expected["mean"][-1]:.3g} of {dims[-1]} '
    f'numbers are read, and {accuracy["mean"][-1]:.2f} % of the answers are '
    f'right. The full width alone: {single[-1]:.2f} %.',
    [
      Figure(
        'plot-cascade',
        plotly_charts.cascade(
          points, list(zip(dims, single, strict=True)), dims
        ),
        f'Thresholds are fitted on {100 * curve["fit_share"]:.0f} % of the '
        f'evaluation split and tried on the rest, {curve["repeats"]} times; '
        'each diamond lets the cascade go one width further.',
      )
    ],
    [Numbers('The numbers', Table(header, rows))],
    [
      'Expected dims count the last width that was asked; cumulated ones all '
      'that were.'
    ],
  )


def oracle(record: Record, per_class: Record | None) -> Section:
  """oracle.json, and per_class.json: who is right where, and who agrees."""
  dims, total, never = record['dims'], record['examples'], record['never']
  shares = plotted.first_right(record)
  first = plotly_charts.bars(
    list(shares),
    list(shares.values()),
    x_label='smallest width that is right',
    y_label='examples, %',
  )
  agreement = plotly_charts.matrix(
    plotted.percent(record['agreement']), dims, 'predicted alike'
  )
  trends = Table(('trend', 'classes'), list(record['trends'].items()))
  numbers = [Numbers('How classes change with width', trends)]
  if per_class:
    rows = list(zip(per_class['classes'], *per_class['accuracy'], strict=True))
    header = ('class', *map(str, per_class['dims']))
    numbers.append(Numbers('Each class, % at each width', Table(header, rows)))
  return Section(
    'oracle',
    'Oracle',
    'What each width knows',
    f'{shares[str(dims[0])]:.1f} % of the examples need {dims[0]} numbers and '
    'no more. '
    'Who always knew the smallest width that is right would reach '
    f'{record["accuracy"]:.2f} % with {_show(record["expected_dim"])} numbers '
    f'on average; a vote of all widths reaches {record["majority"]:.2f} %.',
    [
      Figure(
        'plot-oracle',
        first,
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
  """structure.json: what the prefixes share with each other."""
  dims = record['dims']
  overlap = plotly_charts.matrix(
    plotted.percent(record['overlap']), dims, 'of the neighbours shared'
  )
  variance = plotted.shared(record)['variance']
  return Section(
    'neighbours',
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
        plotly_charts.per_width({'variance': variance}, dims, 'variance, %'),
        "Share of the full embedding's variance that lies in each prefix.",
        'How much varies in a prefix?',
        'square',
      ),
    ],
  )


def calibration(record: Record) -> Section:
  """calibration.json: is a width right as often as it is sure?"""
  dims = record['dims']
  confidence, accuracy = plotted.reliable(record)
  rows = list(zip(dims, record['ece'], strict=True))
  return Section(
    'calibration',
    'Calibration',
    'Right as often as sure?',
    figures=[
      Figure(
        'plot-reliability',
        plotly_charts.reliability(confidence, accuracy, dims),
        'Below the dotted line a width is surer than it should be. Bins '
        'with fewer than 1 % of the examples are left out.',
      ),
      Figure(
        'plot-ece',
        plotly_charts.per_width(
          {'calibration error': record['ece']}, dims, 'calibration error, %'
        ),
        'Mean distance of confidence and accuracy over equal bins.',
      ),
    ],
    tables=[Numbers('The numbers', Table(('width', 'error %'), rows))],
  )


def few_shot(record: Record, dims: Sequence[int]) -> Section:
  """few_shot.json: classes known by a few examples."""
  settings, series = record['settings'], plotted.few_shot(record)
  header = ('width', *series)
  spread = lambda s, g: f'{s["accuracy"][g]:.2f} ± {s["std"][g]:.2f}'
  rows = [
    (dim, *(spread(setting, g) for setting in settings))
    for g, dim in enumerate(record['dims'])
  ]
  return Section(
    'few-shot',
    'Few-shot',
    'From a few examples',
    figures=[
      Figure(
        'plot-few-shot',
        plotly_charts.per_width(
          series, record['dims'], 'accuracy, %', marked=dims
        ),
        'An example goes to the class whose few known examples have the '
        'nearest mean; nothing is trained.',
      )
    ],
    tables=[Numbers('The numbers', Table(header, rows))],
  )


def superclasses(record: Record) -> Section:
  """superclass.json: coarse answers, and where the wrong ones lie."""
  dims = record['dims']
  inside, across = (
    [_mean(row) for row in record[name]] for name in ('inside', 'across')
  )
  rows = [
    (name, *(row[s] for row in record['by_group']))
    for s, name in enumerate(record['groups'])
  ]
  return Section(
    'superclasses',
    'Superclasses',
    'Coarser classes',
    figures=[
      Figure(
        'plot-superclass',
        plotly_charts.per_width(
          {'right group': record['accuracy']}, dims, 'accuracy, %'
        ),
        'Predictions that lie in the right group of classes.',
      ),
      Figure(
        'plot-confusion',
        plotly_charts.per_width(
          {'inside the group': inside, 'across groups': across},
          dims,
          'wrong answers, %',
        ),
        'Wrong classes of the right group, and of another; means over groups.',
      ),
    ],
    tables=[
      Numbers(
        'Right group, % at each width', Table(('group', *map(str, dims)), rows)
      )
    ],
  )


def _mean(values: Sequence[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if known else None


def _show(value: float | None) -> str:
  return '–' if value is None else f'{value:.3g}'
