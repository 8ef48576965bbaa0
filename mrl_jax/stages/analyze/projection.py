"""Draws 2-D and 3-D maps of the embedding at each width."""

import pathlib

from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from mrl_jax.analysis import structure
from mrl_jax.stages.analyze import examples
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

FILES = ('projection.json', 'projection.jpg')
# More points make a map no clearer, and are slow on a phone.
_EXAMPLES = 600
_CLASSES = 10
# Largest side of a thumbnail in pixels, and the side of a JPEG's blocks, of
# which it is a multiple so that neighbours do not blend.
_LARGEST, _BLOCK = 64, 8


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes analysis/projection.json and .jpg, a sheet of thumbnails.

  The maps show at most 600 random examples of at most ten classes of the
  evaluation split: PCA to 2 and 3 dims and t-SNE at each nesting dim, with the
  class that is predicted there.
  """
  split = examples.open_split(config, workdir, checkpoint)
  source, dims = split.source, tuple(config.nesting_dims)
  rows = _sample(split.label_N, config.seed)
  image_NHWC = split.images(config, rows)
  embedding_ND, label_N = (
    np.array(split.embedding_ND[rows]),
    split.label_N[rows],
  )
  probability_GNC = split.trained.apply(examples.probabilities, embedding_ND)
  prediction_GN = probability_GNC.argmax(-1)
  known = sorted({*label_N.tolist(), *prediction_GN.ravel().tolist()})
  folder = workdir.analysis
  sheet_json = _write_sheet(folder, image_NHWC)
  maps = {
    'pca2': structure.project(embedding_ND, dims, components=2),
    'pca3': structure.project(embedding_ND, dims, components=3),
    'tsne': structure.neighbor_maps(embedding_ND, dims, seed=config.seed),
  }
  checksums.write(
    folder / 'projection.json',
    {
      'dims': list(dims),
      **checkpoint.as_json(),
      'num_classes': source.num_classes,
      'rows': rows.tolist(),
      'labels': label_N.tolist(),
      'names': {str(i): examples.name(source.class_names, i) for i in known},
      'prediction': prediction_GN.tolist(),
      'probability': probability_GNC.max(-1).astype(float).round(3).tolist(),
      'thumbnail': sheet_json,
    }
    | {name: _even(points) for name, points in maps.items()},
    [folder / sheet_json['file']],
  )


def _sample(label_N: np.ndarray, seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  classes = np.unique(label_N)
  if len(classes) > _CLASSES:
    classes = rng.choice(classes, _CLASSES, replace=False)
  rows = np.flatnonzero(np.isin(label_N, classes))
  if len(rows) > _EXAMPLES:
    rows = rng.choice(rows, _EXAMPLES, replace=False)
  return np.sort(rows)


def _even(points: list[np.ndarray]) -> list:
  """Centres the maps and scales them to one size, so that shapes compare."""
  centred = [x_NK - x_NK.mean(0, keepdims=True) for x_NK in points]
  sizes = [np.quantile(np.abs(x_NK), 0.99) for x_NK in centred]
  even = [
    x_NK / max(size, 1e-12) for x_NK, size in zip(centred, sizes, strict=True)
  ]
  return [x_NK.astype(float).round(3).tolist() for x_NK in even]


def _write_sheet(folder: pathlib.Path, image_NHWC: np.ndarray) -> dict:
  """Writes the thumbnails as one image; returns its layout."""
  N, size = image_NHWC.shape[:2]
  side = min(_LARGEST, -(-size // _BLOCK) * _BLOCK)
  columns = int(np.ceil(np.sqrt(N)))
  rows = -(-N // columns)
  sheet = Image.new('RGB', (columns * side, rows * side))
  for i, image_HWC in enumerate(image_NHWC):
    image = Image.fromarray(image_HWC).resize((side, side))
    sheet.paste(image, (i % columns * side, i // columns * side))
  with files.replacing(folder / 'projection.jpg') as temporary:
    sheet.save(temporary, 'JPEG', quality=85, subsampling=0)
  return {
    'file': 'projection.jpg',
    'side': side,
    'columns': columns,
    'rows': rows,
  }
