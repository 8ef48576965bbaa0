"""Sections with images: the projection, and saliency."""

import base64
from collections.abc import Mapping
import io
import itertools
import pathlib
from typing import Any

import numpy as np

from mrl_jax.report import colors
from mrl_jax.report.content import Section
from mrl_jax.workdir import npy

_VIEWS = {'tsne': 't-SNE', 'pca2': 'PCA', 'pca3': 'PCA in 3-D'}
# Images of fewer pixels a side are enlarged without smoothing.
_COARSE = 24


def projection(record: Mapping[str, Any], folder: pathlib.Path) -> Section:
  """projection.json and its sheet of thumbnails in `folder`: maps of points."""
  dims, labels = record['dims'], record['labels']
  names = record['names']
  shown = sorted(set(labels))
  color_of = dict(zip(shown, itertools.cycle(colors.CLASSES), strict=False))
  thumbnail = record['thumbnail']
  path = folder / thumbnail['file']
  if not path.exists():
    raise ValueError(f'{path} is not there: run --mode=analyze')
  views = {name: record[name] for name in _VIEWS}
  extent = {
    name: 1.06 * max(float(np.abs(points).max()) for points in view)
    for name, view in views.items()
  }
  is_wrong = [
    x != y for x, y in zip(labels, record['prediction'][0], strict=True)
  ]
  data = {
    'dims': dims,
    'labels': labels,
    'names': names,
    'names_shown': {label: names[str(label)] for label in shown},
    'colors': color_of,
    'views': views,
    'extent': extent,
    'prediction': record['prediction'],
    'probability': record['probability'],
    # The example shown before a point is touched: the first error, if any.
    'first': next((i for i, error in enumerate(is_wrong) if error), 0),
    'thumbnail': {**thumbnail, 'data': _data_uri(path.read_bytes())},
    'ink': colors.INK,
    'layout': _LAYOUT,
  }
  classes = ''
  if record['num_classes'] > len(shown):
    classes = f', of {len(shown)} of {record["num_classes"]:,} classes'
  return Section(
    'The space',
    'The space, width by width',
    'Each point is an image of the evaluation split. Move the slider, and see '
    'what that many numbers of the embedding know of it.',
    projection={
      'views': [{'id': id_, 'name': name} for id_, name in _VIEWS.items()],
      'last': len(dims) - 1,
      'kind': 'pixels' if thumbnail['side'] < _COARSE else '',
      'data': data,
      'caption': f'{len(labels):,} images{classes}. '
      'Rings are examples that the width gets wrong. Each map is turned to lie '
      'as near the one before as it can; t-SNE (by cosine) keeps neighbours '
      'together, and its distances between groups mean little.',
    },
  )


_LAYOUT = {
  'paper_bgcolor': 'rgba(0,0,0,0)',
  'plot_bgcolor': 'rgba(0,0,0,0)',
  'margin': {'l': 0, 'r': 0, 't': 0, 'b': 0},
  'showlegend': False,
  'dragmode': False,
  'hovermode': 'closest',
  'hoverdistance': 30,
  'font': {'family': 'system-ui, sans-serif', 'color': colors.INK},
}


def saliency(record: Mapping[str, Any], folder: pathlib.Path) -> Section:
  """saliency.json and its arrays in `folder`: widths across, images down."""
  image_NHWC, heat_GNhw, rollout_Nhw = read_saliency(record, folder)
  dims, names = record['dims'], record['names']
  rows = []
  for n, label in enumerate(record['labels']):
    cells = []
    if rollout_Nhw is not None:
      image = _jpeg(overlay(image_NHWC[n], rollout_Nhw[n]))
      cells.append({'what': 'Attention rollout', 'image': image})
    for g, dim in enumerate(dims):
      predicted = record['prediction'][g][n]
      cells.append(
        {
          'what': f'Where width {dim} looks',
          'image': _jpeg(overlay(image_NHWC[n], heat_GNhw[g][n])),
          'name': names[str(predicted)],
          'wrong': label is not None and predicted != label,
          'probability': f'{100 * record["probability"][g][n]:.0f} %',
        }
      )
    name = record['titles'][n]
    rows.append({'image': _jpeg(image_NHWC[n]), 'name': name, 'cells': cells})
  return Section(
    'Saliency',
    'Where each width looks',
    saliency={
      'first': 'image',
      'header': [*(['attention'] if rollout_Nhw is not None else []), *dims],
      'rows': rows,
      'kind': 'pixels' if image_NHWC.shape[1] < _COARSE else '',
      'caption': f'{record["method"]} of the class that each width predicts, '
      'brightest where it matters most, with the probability it gives it.',
    },
  )


def read_saliency(
  record: Mapping[str, Any], folder: pathlib.Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Reads the arrays beside a saliency.json.

  Returns images, uint8 [N, H, W, 3], heat [G, N, h, w], and for a transformer
  attention rollout [N, h, w]. Raises ValueError if the file cannot be read.
  """
  path = folder / record['arrays']
  try:
    arrays = npy.load_npz(path, ('image', 'heat'))
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} cannot be read ({error}): run --mode=analyze'
    ) from error
  return arrays['image'], arrays['heat'], arrays.get('rollout')


def overlay(image_HWC: np.ndarray, heat_hw: np.ndarray) -> np.ndarray:
  """Darkens an image where the heat is low, and lights it where it is high.

  `heat_hw` is in [0, 1], of any size. Returns uint8 [H, W, 3] with at least 112
  pixels a side.
  """
  from matplotlib import colormaps
  from PIL import Image

  height, width = image_HWC.shape[:2]
  scale = max(1.0, 112 / min(height, width))
  size = (round(width * scale), round(height * scale))
  pixels = min(height, width) < _COARSE
  kind = Image.Resampling.NEAREST if pixels else Image.Resampling.BICUBIC
  image = np.asarray(Image.fromarray(image_HWC).resize(size, kind)) / 255
  heat = Image.fromarray(heat_hw.astype(np.float32))
  heat = np.asarray(heat.resize(size, Image.Resampling.BILINEAR))[..., None]
  grey = image.mean(-1, keepdims=True) * 0.55
  color = colormaps['inferno'](heat[..., 0])[..., :3]
  mixed = (1 - heat) * grey + heat * (0.55 * image + 0.45 * color)
  return (255 * mixed.clip(0, 1)).round().astype(np.uint8)


def _jpeg(image_HWC: np.ndarray) -> str:
  from PIL import Image

  buffer = io.BytesIO()
  image = Image.fromarray(image_HWC)
  image.thumbnail((160, 160))
  image.save(buffer, 'JPEG', quality=85, subsampling=0)
  return _data_uri(buffer.getvalue())


def _data_uri(jpeg: bytes) -> str:
  return 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()
