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
# Shortlists by some numbers, reranked by all.
_RERANKED = {
  't2i_adaptive10': 'texts find their image',
  'i2t_adaptive10': 'images find a text',
}
# The first that a set has; small ones have no recall@10.
_MAIN = ('t2i_recall10', 't2i_recall5', 't2i_recall1', 'zero_shot')


class Search(TypedDict):
  """The numbers of the pictures that words find, and their cosines."""

  words: str
  found: list[int]
  cosines: list[float]


class Picture(TypedDict):
  """A picture's first caption, and a thumbnail of it, a JPEG in base64."""

  caption: str
  jpeg: str


class Places(TypedDict, total=False):
  """Captions, and by width the places of pictures and of captions."""

  names: list[str]
  images: dict[str, list[list[float]]]
  texts: dict[str, list[list[float]]]


class Record(TypedDict):
  """What the stage evaluate writes of a set of pairs."""

  set: str
  kind: str
  count: int
  widths: list[int]
  values: dict[str, float]
  searches: dict[str, list[Search]]
  pictures: dict[str, Picture]
  map: Places


def quality(
  sets: Sequence[Record], widths: Sequence[int], dims: Sequence[int]
) -> Section:
  """Both directions, zero-shot and 1-NN against width, and all numbers."""
  counts = ', '.join(f'{x["set"]}: {x["count"]:,} images' for x in sets)
  figures = [
    Figure(
      'plot-accuracy',
      plotly_charts.lines(_series(sets, _METRICS), dims, 'accuracy, %'),
      f'From the first numbers of the embeddings alone. {counts}.',
    )
  ]
  if reranked := _series(sets, _RERANKED):
    figures.append(
      Figure(
        'plot-adaptive',
        plotly_charts.lines(reranked, dims, 'recall@10, %'),
        'A shortlist by the first numbers, reranked by all of them: adaptive '
        'retrieval in both directions.',
      )
    )
  return Section(
    'Accuracy',
    'Accuracy against width',
    figures=figures,
    tables=[
      FoldedTable(
        f'All metrics of {x["set"]}; recalls and accuracies in %',
        tables.widths(x['values'], widths),
      )
      for x in sets
    ],
    notes=[*filter(None, map(_cosines, sets))],
  )


def _series(
  sets: Sequence[Record], metrics: Mapping[str, str]
) -> dict[str, list[tuple[int, float]]]:
  """The values of each set's metrics by width, by the names of their lines."""
  found = {}
  for record in sets:
    for name, label in metrics.items():
      values = {m: f'{record["set"]}/{name}@{m}' for m in record['widths']}
      points = [
        (m, record['values'][key])
        for m, key in values.items()
        if key in record['values']
      ]
      if points:
        found[f'{record["set"]}: {label}'] = points
  return found


def _cosines(record: Record) -> str:
  """How similar pairs are; empty for a set without pairs."""
  name, last = record['set'], record['widths'][-1]
  pair = record['values'].get(f'{name}/cosine_of_pairs@{last}')
  if pair is None:
    return ''
  other = record['values'][f'{name}/cosine_of_others@{last}']
  return (
    f'{name}: an image and its text have a mean cosine of {pair:.2f}, others '
    f'of {other:.2f}, at width {last}. Of pairs the article has 0.27 for ALIGN '
    'and 0.49 for ALIGN with MRL (arXiv 2205.13147, table 6).'
  )


def searches(sets: Sequence[Record]) -> Iterator[Section]:
  """What words find in the first set of pairs, and its images with texts."""
  record = next((x for x in sets if x['searches']), None)
  if record is None:
    return
  yield _search(record)
  if record['map'].get('names'):
    yield _map(record)


def _search(record: Record) -> Section:
  rows = []
  for several in zip(*record['searches'].values(), strict=True):
    for width, search in zip(record['searches'], several, strict=True):
      cells = []
      for number, cosine in zip(
        search['found'], search['cosines'], strict=True
      ):
        picture = record['pictures'][str(number)]
        cells.append(
          {
            'what': picture['caption'],
            'image': f'data:image/jpeg;base64,{picture["jpeg"]}',
            'name': picture['caption'],
            'wrong': False,
            'probability': f'{cosine:.2f}',
          }
        )
      name = f'{search["words"]} (width {width})'
      rows.append({'image': '', 'name': name, 'cells': cells})
  most = max(len(row['cells']) for row in rows)
  return Section(
    'Search',
    'Search by words',
    f'The images of the set {record["set"]} that words find, nearest first, by '
    'the first numbers and by all of them.',
    saliency={
      'first': 'words',
      'header': [str(i) for i in range(1, most + 1)],
      'rows': rows,
      'kind': '',
      'caption': 'Below each image its first caption, and its cosine with the '
      'words.',
    },
  )


def _map(record: Record) -> Section:
  places = record['map']
  return Section(
    'Map',
    'Images and texts in one plane',
    f'{len(places["names"]):,} images of the set {record["set"]}, joined to '
    'their texts by lines: the two main directions of both together.',
    figures=[
      Figure(
        f'plot-map-{width}',
        plotly_charts.places(
          {
            'images': places['images'][width],
            'texts': places['texts'][width],
          },
          places['names'],
        ),
        'Touch a point for its text.',
        title=f'Width {width}',
        shape='square',
      )
      for width in places['images']
    ],
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
