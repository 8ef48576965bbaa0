"""Writes the report's figures as files for papers."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from mrl_jax.report import images
from mrl_jax.report import paper_figures
from mrl_jax.report import series

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
  accuracy: Mapping[str, series.Points],
  dims: Sequence[int],
  records: Sequence[Mapping[str, float]],
  retrieved: Mapping[str, Any] | None,
  analyses: Mapping[str, Any],
  analysis_folder: pathlib.Path,
) -> None:
  """Writes an SVG for each plot, and a PNG for the grid of images.

  Figures of an earlier report that this one has no numbers for are removed.
  `accuracy` is of `series.accuracies`, `dims` the nesting dims, `records` the
  rows of metrics.jsonl, `retrieved` the content of retrieval.json, and
  `analyses` the records by name; None stands for missing ones.
  """
  left = set(_NAMES)
  figures = _figures(accuracy, dims, records, retrieved, analyses)
  for name, figure in figures:
    paper_figures.save(figure, folder / name)
    left.discard(name)
  if record := analyses['saliency']:
    arrays = images.read_saliency(record, analysis_folder)
    paper_figures.save(saliency_grid(record, *arrays), folder / 'saliency.png')
    left.discard('saliency.png')
  for name in left:
    (folder / name).unlink(missing_ok=True)


def _figures(
  accuracy, dims, records, retrieved, analyses
) -> Iterator[tuple[str, Any]]:
  """Yields names and figures."""
  lines, y_label = paper_figures.lines, 'accuracy, %'
  x_label = 'embedding width'
  yield 'accuracy.svg', lines(accuracy, x_label, y_label, widths=dims)
  if loss := series.curves(records, 'train/loss', dims):
    label = 'training loss, nats'
    yield 'training.svg', lines(loss, 'step', label, title='width')
  if retrieved and (kinds := series.searches(retrieved)):
    yield 'retrieval.svg', paper_figures.trade_off(kinds)
  if record := analyses['cascade_curve']:
    label = 'width that an example takes on average'
    points = series.cascade(record)
    yield 'cascade.svg', lines(points, label, y_label, widths=dims)
  if record := analyses['oracle']:
    shares = series.smallest_correct(record)
    label = 'smallest width that is right'
    yield 'oracle.svg', paper_figures.bars(shares, label)
  if record := analyses['calibration']:
    points = {
      f'{dim}: {error:.1f} %': bins
      for (dim, bins), error in zip(
        series.reliability(record).items(), record['ece'], strict=True
      )
    }
    yield 'calibration.svg', paper_figures.reliability(points)
  if record := analyses['structure']:
    points, label = series.of_full_width(record), 'share of the full width, %'
    widths = record['dims']
    yield 'structure.svg', lines(points, x_label, label, widths=widths)
  if record := analyses['few_shot']:
    points = series.few_shot(record)
    yield 'few_shot.svg', lines(points, x_label, y_label, widths=dims)


def saliency_grid(
  record: Mapping[str, Any],
  image_NHWC: np.ndarray,
  heat_GNhw: np.ndarray,
  rollout_Nhw: np.ndarray | None,
):
  """Draws a saliency.json and its arrays: widths across, images down."""
  names = record['names']
  header = ['image', *map(str, record['dims'])]
  rows, texts = [], []
  for n, title in enumerate(record['titles']):
    image_HWC = image_NHWC[n]
    heats = (images.overlay(image_HWC, x_hw) for x_hw in heat_GNhw[:, n])
    row, text = [image_HWC, *heats], [title]
    for class_N, probability_N in zip(
      record['prediction'], record['probability'], strict=True
    ):
      name = names[str(class_N[n])]
      text.append(f'{name}\n{100 * probability_N[n]:.0f} %')
    if rollout_Nhw is not None:
      row.insert(1, images.overlay(image_HWC, rollout_Nhw[n]))
      text.insert(1, '')
    rows.append(row)
    texts.append(text)
  if rollout_Nhw is not None:
    header.insert(1, 'attention')
  return paper_figures.images(rows, texts, header)
