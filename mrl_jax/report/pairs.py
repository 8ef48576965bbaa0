"""The page of a run on images and texts: both directions against width."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from mrl_jax.report import plotly_charts
from mrl_jax.report import texts
from mrl_jax.report.content import Figure
from mrl_jax.report.content import FoldedTable
from mrl_jax.report.content import Headline
from mrl_jax.report.content import Section
from mrl_jax.terminal import tables

# What is plotted of each set, and its name.
_METRICS = {
  't2i_recall10': 'texts find their image, recall@10',
  'i2t_recall10': 'images find a text, recall@10',
  'zero_shot': 'zero-shot top-1',
  'knn1': '1-NN by the image tower',
}
# The first that a set has; small ones have no recall@10.
_MAIN = ('t2i_recall10', 't2i_recall5', 't2i_recall1', 'zero_shot')


class Record(TypedDict):
  """What the stage evaluate writes of a set of pairs; see `pairs.measure`."""

  set: str
  kind: str
  count: int
  widths: list[int]
  values: dict[str, float]
  searches: dict[str, list[list[str]]]


def quality(
  sets: Sequence[Record], widths: Sequence[int], dims: Sequence[int]
) -> Section:
  """Both directions, zero-shot and 1-NN against width, and all numbers."""
  plotted = {}
  for record in sets:
    values = record['values']
    for name, label in _METRICS.items():
      key = f'{record["set"]}/{name}'
      if f'{key}@{widths[0]}' in values:
        plotted[f'{record["set"]}: {label}'] = [
          (m, values[f'{key}@{m}']) for m in widths
        ]
  counts = ', '.join(f'{x["set"]}: {x["count"]:,} images' for x in sets)
  chart = plotly_charts.lines(plotted, dims, 'accuracy, %')
  caption = f'From the first numbers of the embeddings alone. {counts}.'
  return Section(
    'Accuracy',
    'Accuracy against width',
    figures=[Figure('plot-accuracy', chart, caption)],
    tables=[
      FoldedTable(
        f'All metrics of {x["set"]}; recalls and accuracies in %',
        tables.widths(x['values'], widths),
      )
      for x in sets
    ],
  )


def searches(sets: Sequence[Record], dims: Sequence[int]) -> Iterator[Section]:
  """What words find, by first captions, at the first and the last width."""
  found = [x for x in sets if x['searches']]
  if not found:
    return
  made = []
  for record in found:
    for m in dict.fromkeys((dims[0], dims[-1])):
      rows = record['searches'].get(str(m), [])
      most = max(map(len, rows), default=1)
      header = ('words', *(f'image {i}' for i in range(1, most)))
      table = tables.Table(header, [tuple(row) for row in rows])
      made.append(FoldedTable(f'{record["set"]}, width {m}', table))
  yield Section(
    'Search',
    'Search by words',
    'The images that texts find, nearest first, by the captions of the images.',
    tables=made,
  )


def headline(
  config: Mapping[str, Any], record: Record, dims: Sequence[int], step: int
) -> Headline:
  """Names the smallest width that keeps 99 % of the first set's accuracy."""
  there = {name.partition('@')[0] for name in record['values']}
  main = next(x for x in _MAIN if f'{record["set"]}/{x}' in there)
  first = texts.Measured(
    {**record, 'first': record['count'], 'second': 0}, f'{record["set"]}/{main}'
  )
  over = (
    f'{config["name"]}: {config["encoder"]} and {config["pairs"]["text"]} '
    f'towers, {config["pairs"]["objective"]}, on {config["dataset"]}, step '
    f'{step:,}'
  )
  return texts.kept(
    over,
    first,
    dims,
    'Two encoders, each run once: every prefix of an embedding is an embedding '
    'by itself, of images and texts alike.',
  )
