"""The page of a text run: its headline, and quality against width."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from mrl_jax.report import plotly_charts
from mrl_jax.report.content import Doll
from mrl_jax.report.content import Figure
from mrl_jax.report.content import FoldedTable
from mrl_jax.report.content import Headline
from mrl_jax.report.content import Section
from mrl_jax.report.content import Tile
from mrl_jax.report.headline import KEEPS
from mrl_jax.report.series import FLOAT_BYTES
from mrl_jax.terminal import tables

_METRICS = {
  'spearman': 'Spearman correlation',
  'ndcg10': 'nDCG@10',
  'ap': 'average precision',
  'v_measure': 'V-measure',
  'accuracy': 'accuracy of a linear classifier',
  't2i_recall10': 'text-to-image recall@10',
  'i2t_recall10': 'image-to-text recall@10',
  'zero_shot': 'zero-shot accuracy',
}
_KINDS = {
  'sts': 'pairs with scores',
  'pairs': 'pairs to tell from others',
  'clustering': 'texts to cluster',
  'classification': 'texts to classify',
  'retrieval': 'queries',
}


class Record(TypedDict):
  """What the stage evaluate writes of a set; values are in percent."""

  set: str
  kind: str
  first: int
  second: int
  widths: list[int]
  values: dict[str, float]


class Measured(NamedTuple):
  """A set's record, and its main metric, as in `sts/spearman`."""

  record: Record
  main: str

  def at(self, width: int) -> float:
    return self.record['values'][f'{self.main}@{width}']

  @property
  def metric(self) -> str:
    name = self.main.rpartition('/')[2]
    return _METRICS.get(name, name)

  @property
  def label(self) -> str:
    return f'{self.record["set"]}: {self.metric}'


def quality(
  sets: Sequence[Measured], widths: Sequence[int], dims: Sequence[int]
) -> Section:
  """The main metric of every set against width, and tables of all metrics."""
  plotted = {x.label: [(m, x.at(m)) for m in widths] for x in sets}
  chart = plotly_charts.lines(plotted, dims, 'quality, %')
  counts = ', '.join(
    f'{x.record["set"]}: {x.record["first"]:,} {_KINDS[x.record["kind"]]}'
    for x in sets
  )
  return Section(
    'Quality',
    'Quality against width',
    figures=[
      Figure(
        'plot-quality',
        chart,
        'Each set by its main metric, from the first numbers of the '
        f'embeddings alone. {counts}.',
      )
    ],
    tables=[
      FoldedTable(
        f'All metrics of {x.record["set"]}, %',
        tables.widths(x.record['values'], widths),
      )
      for x in sets
    ],
  )


def headline(
  config: Mapping[str, Any], first: Measured, dims: Sequence[int], step: int
) -> Headline:
  """Names the smallest width that keeps 99 % of the first set's quality."""
  over = (
    f'{config["name"]}: {config["encoder"]} encoder of texts, '
    f'{config["text"]["objective"]}, on {config["dataset"]}, step {step:,}'
  )
  return kept(
    over,
    first,
    dims,
    'One encoder, run once: every prefix of its embedding is an embedding by '
    'itself. It costs the same at every width; what is stored and searched '
    'does not.',
  )


def kept(
  over: str, first: Measured, dims: Sequence[int], lead: str
) -> Headline:
  """A headline that names the smallest width that keeps 99 % of a metric.

  `over` is the line above the title, `lead` the text below it.
  """
  last = dims[-1]
  enough = (dim for dim in dims if first.at(dim) >= KEEPS * first.at(last))
  small = next(enough, last)
  stress = f'all {last} numbers' if small == last else f'{small} of {last}'
  verb = 'for' if small == last else 'keep'
  after = f'{verb} 99 % of the {first.metric} on {first.record["set"]}.'
  tiles = [
    Tile(
      f'{first.at(small):.2f} %',
      f'{first.label} at width {small}; {first.at(last):.2f} % at {last}',
    ),
    Tile(
      f'{small * FLOAT_BYTES:,} B',
      f'to store an embedding (float32); {last * FLOAT_BYTES:,} B for all '
      f'{last}: 1/{last / small:.3g}',
    ),
    Tile(f'1/{last / small:.3g}', 'of the multiply-adds when two are compared'),
  ]
  dolls = [
    Doll(
      dim,
      f'{first.at(dim):.1f}',
      round(1.4 + 3.8 * (i + 1) / len(dims), 2),
      'chosen' if dim == small else 'keeps' if dim > small else '',
    )
    for i, dim in enumerate(dims)
  ]
  return Headline(
    over,
    'It takes' if small == last else '',
    stress if small == last else f'{stress} numbers',
    after,
    lead,
    tiles,
    dolls if len(dims) > 1 else (),
  )
