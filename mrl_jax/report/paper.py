"""The report's figures as files for papers."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from mrl_jax.report import images
from mrl_jax.report import measurements
from mrl_jax.report import paper_figures
from mrl_jax.report import series as plotted

_NAMES = (
  'accuracy.svg',
  'training.svg',
  'retrieval.svg',
  'cascade.svg',
  'oracle.svg',
  'calibration.svg',
  'structure.svg',
  'few_shot.svg',
  'saliency.png',
)


def write(
  folder: pathlib.Path,
  *,
  accuracy: Mapping[str, paper_figures.Points],
  dims: Sequence[int],
  records: Sequence[Mapping[str, float]],
  retrieved: Mapping[str, Any] | None,
  analyses: Mapping[str, Any],
  analysis_folder: pathlib.Path,
) -> None:
  """Writes an SVG for each plot, and a PNG for the grid of images.

  Those of an earlier report that this one has nothing for go.
  """
  left = set(_NAMES)
  for name, figure in _figures(
    accuracy, dims, records, retrieved, analyses, analysis_folder
  ):
    paper_figures.save(figure, folder / name)
    left.discard(name)
  for name in left:
    (folder / name).unlink(missing_ok=True)


def _figures(
  accuracy, dims, records, retrieved, analyses, folder
) -> Iterator[tuple[str, Any]]:
  width = 'embedding width'
  yield (
    'accuracy.svg',
    paper_figures.against_width(accuracy, dims, width, 'accuracy, %'),
  )
  if loss := measurements.curves(records, 'train/loss', dims):
    yield 'training.svg', paper_figures.over_steps(loss, 'training loss, nats')
  if retrieved:
    kinds, _ = measurements.searches(retrieved)
    if kinds:
      yield 'retrieval.svg', paper_figures.trade_off(kinds)
  if curve := analyses['cascade_curve']:
    expected, reached = (curve[n]['mean'] for n in ('expected_dim', 'accuracy'))
    series = {
      'one width for all': list(zip(dims, curve['single'], strict=True)),
      'as wide as needed': list(zip(expected, reached, strict=True)),
    }
    width = 'width that an example takes on average'
    yield (
      'cascade.svg',
      paper_figures.against_width(series, dims, width, 'accuracy, %'),
    )
  yield from _analyzed(analyses, dims)
  if record := analyses['saliency']:
    arrays = images.read_saliency(record, folder)
    yield 'saliency.png', saliency_grid(record, *arrays)


def _analyzed(analyses, dims) -> Iterator[tuple[str, Any]]:
  if record := analyses['oracle']:
    shares = plotted.first_right(record)
    x_label = 'smallest width that is right'
    yield 'oracle.svg', paper_figures.bars(shares, x_label, 'examples, %')
  if record := analyses['calibration']:
    bins = plotted.reliable(record)
    yield (
      'calibration.svg',
      paper_figures.reliability(*bins, record['ece'], record['dims']),
    )
  if record := analyses['structure']:
    yield (
      'structure.svg',
      paper_figures.per_width(
        plotted.shared(record), record['dims'], 'share of the full width, %'
      ),
    )
  if record := analyses['few_shot']:
    yield (
      'few_shot.svg',
      paper_figures.per_width(
        plotted.few_shot(record),
        record['dims'],
        'accuracy, %',
        marked=dims,
      ),
    )


def saliency_grid(
  record: Mapping[str, Any],
  image_NHWC: np.ndarray,
  heat_GNhw: np.ndarray,
  rollout_Nhw: np.ndarray | None,
):
  """The grid of a saliency.json and its arrays: widths across, images down."""
  names = record['names']
  header = ['image', *map(str, record['dims'])]
  rows, texts = [], []
  for n, title in enumerate(record['titles']):
    heat_Ghw = heat_GNhw[:, n]
    row = [
      image_NHWC[n],
      *(images.overlay(image_NHWC[n], x_hw) for x_hw in heat_Ghw),
    ]
    said_G = np.array(record['prediction'])[:, n]
    sure_G = np.array(record['probability'])[:, n]
    text = [title] + [
      f'{names[str(said)]}\n{100 * sure:.0f} %'
      for said, sure in zip(said_G, sure_G, strict=True)
    ]
    if rollout_Nhw is not None:
      row.insert(1, images.overlay(image_NHWC[n], rollout_Nhw[n]))
      text.insert(1, '')
    rows.append(row)
    texts.append(text)
  if rollout_Nhw is not None:
    header.insert(1, 'attention')
  return paper_figures.images(rows, texts, header)
