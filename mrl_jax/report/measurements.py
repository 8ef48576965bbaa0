"""The parts of the page on what training, evaluation and retrieval measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrl_jax.report import headline
from mrl_jax.report import plotly_charts
from mrl_jax.report.content import Figure
from mrl_jax.report.content import Numbers
from mrl_jax.report.content import Section
from mrl_jax.retrieval.plan import pareto
from mrl_jax.terminal import tables

_FLOAT_BYTES = 4


def accuracies(
  values: Mapping[str, float],
  widths: Sequence[int],
  baselines: Mapping[str, Any] | None,
) -> dict[str, list[tuple[float, float]]]:
  """(width, percent) points of the heads, of 1-NN, and of its baselines."""
  series = {
    label: [
      (dim, values[f'{name}@{dim}'])
      for dim in widths
      if f'{name}@{dim}' in values
    ]
    for label, name in {'linear': 'val/top1', '1-NN': 'val/knn1'}.items()
  }
  if baselines:
    dims, knn1 = baselines['dims'], baselines['knn1']
    if baselines['sampled']:
      series['1-NN'] = list(zip(dims, knn1['nested'], strict=True))
    for label in ('PCA', 'SVD', 'random dims'):
      series[label] = list(zip(dims, knn1[label], strict=True))
  # A projection that leaves a row all zero has no accuracy.
  series = {
    label: [point for point in points if point[1] is not None]
    for label, points in series.items()
  }
  return {label: points for label, points in series.items() if points}


def accuracy(
  values: Mapping[str, float],
  widths: Sequence[int],
  dims: Sequence[int],
  baselines: Mapping[str, Any] | None,
) -> Section:
  """Top-1 and 1-NN against width, with what unnested embeddings do."""
  series = accuracies(values, widths, baselines)
  caption = (
    'Top-1 of the nested classifiers, and of the nearest training example by '
    'cosine.'
  )
  notes, numbers = [], [Numbers('The numbers', tables.accuracy(values, widths))]
  if baselines:
    knn1 = baselines['knn1']
    caption += (
      ' The other lines are 1-NN, too, after a projection of the full '
      'embedding to the width.'
    )
    if baselines['sampled']:
      notes.append(
        f'1-NN and its baselines are of {baselines["queries"]:,} queries in '
        f'{baselines["database"]:,} rows here, drawn at random; the table has '
        'all.'
      )
    rows = list(zip(baselines['dims'], *knn1.values(), strict=True))
    numbers.append(
      Numbers('1-NN % of the baselines', tables.Table(('width', *knn1), rows))
    )
  return Section(
    'accuracy',
    'Accuracy',
    'Accuracy against width',
    figures=[
      Figure(
        'plot-accuracy',
        plotly_charts.against_width(series, dims, 'accuracy, %'),
        caption,
      )
    ],
    tables=numbers,
    notes=notes,
  )


def searches(
  record: Mapping[str, Any],
) -> tuple[dict[str, list[tuple[float, float, str]]], list[pareto.Point]]:
  """(MFLOPs, mAP@10, name) of each kind of search, and all as `Point`s.

  Empty where there are no labels to measure mAP@10 by.
  """
  kinds, points = {}, []
  for name, method in record['methods'].items():
    map10 = method['metrics'].get('map10')
    if map10 is None:
      continue
    steps = len(method['dims'])
    kind = 'exact' if steps == 1 else 'adaptive' if steps == 2 else 'funnel'
    mflops = method['mflops_per_query']
    shown = name.replace('-', ' → ')
    kinds.setdefault(kind, []).append((mflops, map10, shown))
    points.append(
      pareto.Point(
        shown,
        map10,
        mflops,
        bytes=1e6 * mflops * _FLOAT_BYTES,
        ms=1e3 * method['seconds'] / record['queries'],
        row_bytes=_FLOAT_BYTES * method['dims'][-1],
      )
    )
  return kinds, points


def retrieval(record: Mapping[str, Any]) -> Section:
  """What a search costs and finds: exact, reranked, and in funnels."""
  kinds, points = searches(record)
  figures, lead = [], ''
  if points:
    best = pareto.front(points)
    figures = [
      Figure(
        'plot-retrieval',
        plotly_charts.trade_off(
          kinds,
          [(p.mflops, p.accuracy) for p in best],
          x_label='MFLOPs per query',
          y_label='mAP@10, %',
        ),
        'Each point is one way to search. A short prefix finds candidates, a '
        'longer one ranks them; the dotted line joins those that nothing '
        'cheaper equals.',
      )
    ]
    full = max((p for p in points if '→' not in p.name), key=lambda p: p.mflops)
    enough = next(
      p for p in best if p.accuracy >= headline.KEEPS * full.accuracy
    )
    name = enough.name
    what = f'The search {name}' if '→' in name else f'Width {name}'
    lead = (
      f'Searched exactly at width {full.name}, mAP@10 is {full.accuracy:.2f} % '
      f'for {full.mflops:.3g} MFLOPs a query. {what} has '
      f'{enough.accuracy:.2f} % for {enough.mflops:.3g}.'
    )
  title = f'{record["queries"]:,} queries in {record["database"]:,} rows'
  return Section(
    'retrieval',
    'Retrieval',
    f'Retrieval: {title}',
    lead,
    figures,
    [
      Numbers(
        'The numbers (seconds of all queries together)',
        tables.retrieval(record['methods']),
      )
    ],
  )


def curves(
  records: Sequence[Mapping[str, float]], name: str, dims: Sequence[int]
) -> dict[int, list[tuple[float, float]]]:
  """(step, value) points of each width; those without any are left out."""
  series = {
    dim: [
      (record['step'], record[f'{name}@{dim}'])
      for record in records
      if f'{name}@{dim}' in record
    ]
    for dim in dims
  }
  return {dim: points for dim, points in series.items() if points}


def training(
  records: Sequence[Mapping[str, float]], dims: Sequence[int]
) -> Section:
  """How the loss fell, and the accuracy rose."""
  figures = []
  loss = curves(records, 'train/loss', dims)
  top1 = curves(records, 'val/top1', dims)
  if loss:
    figures.append(
      Figure(
        'plot-loss',
        plotly_charts.over_steps(loss, 'loss, nats', log=True),
        'The loss of each width; their weighted sum is trained.',
      )
    )
  if top1 and max(map(len, top1.values())) > 2:
    figures.append(
      Figure(
        'plot-progress',
        plotly_charts.over_steps(top1, 'accuracy, %'),
        'Top-1 on the evaluation split while training went on.',
      )
    )
  return Section('training', 'Training', 'Training', figures=figures)


def settings(config: Mapping[str, Any]) -> Section:
  rows = [(name, repr(value)) for name, value in sorted(config.items())]
  table = tables.Table(('field', 'value'), rows)
  return Section(
    'settings',
    'Settings',
    'Settings',
    tables=[Numbers('The resolved config', table, 'settings')],
  )
