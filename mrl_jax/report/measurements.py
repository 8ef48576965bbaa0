"""Sections on what training, evaluation and retrieval measured."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

from mrl_jax.report import headline
from mrl_jax.report import plotly_charts
from mrl_jax.report import series
from mrl_jax.report.content import Figure
from mrl_jax.report.content import FoldedTable
from mrl_jax.report.content import Section
from mrl_jax.retrieval.plan import pareto
from mrl_jax.terminal import tables


def accuracy(
  values: Mapping[str, float],
  widths: Sequence[int],
  dims: Sequence[int],
  baselines: Mapping[str, Any] | None,
) -> Section:
  """Top-1 and 1-NN against width, and 1-NN of projected full embeddings."""
  plotted = series.accuracies(values, widths, baselines)
  caption = (
    'Top-1 of the nested classifiers, and of the nearest training example by '
    'cosine.'
  )
  notes = []
  numbers = [FoldedTable('The numbers', tables.accuracy(values, widths))]
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
    table = tables.Table(('width', *knn1), rows)
    numbers.append(FoldedTable('1-NN % of the baselines', table))
  chart = plotly_charts.lines(plotted, dims, 'accuracy, %')
  return Section(
    'Accuracy',
    'Accuracy against width',
    figures=[Figure('plot-accuracy', chart, caption)],
    tables=numbers,
    notes=notes,
  )


def retrieval(record: Mapping[str, Any]) -> Section:
  """Accuracy and cost of searches: exact, reranked, and in funnels."""
  kinds = series.searches(record)
  figures, lead = [], ''
  if kinds:
    best = pareto.front(itertools.chain(*kinds.values()))
    figures = [
      Figure(
        'plot-retrieval',
        plotly_charts.trade_off(kinds, best),
        'Each point is one way to search. A short prefix finds candidates, a '
        'longer one ranks them; the dotted line joins those that nothing '
        'cheaper equals.',
      )
    ]
    full = max(kinds['exact'])
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
  name = 'The numbers (seconds of all queries together)'
  return Section(
    'Retrieval',
    f'Retrieval: {title}',
    lead,
    figures,
    [FoldedTable(name, tables.retrieval(record['methods']))],
  )


def training(
  records: Sequence[Mapping[str, float]], dims: Sequence[int]
) -> Section:
  """Loss and accuracy over the steps of training."""
  figures = []
  loss = series.curves(records, 'train/loss', dims)
  top1 = series.curves(records, 'val/top1', dims)
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
  return Section('Training', 'Training', figures=figures)


def settings(config: Mapping[str, Any]) -> Section:
  """The resolved config."""
  rows = [(name, repr(value)) for name, value in sorted(config.items())]
  table = tables.Table(('field', 'value'), rows)
  return Section(
    'Settings',
    'Settings',
    tables=[FoldedTable('The resolved config', table, 'settings')],
  )
