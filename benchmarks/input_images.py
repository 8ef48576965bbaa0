"""Writes images as `benchmarks.input` reads them, and compares their crops."""

from collections.abc import Mapping, Sequence
import contextlib
import io
import pathlib
import sys

import numpy as np
from PIL import Image

from benchmarks import timing
from mrl_jax.data.batches import draws
from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_grid
from mrl_jax.data.prepare.rewrite import write_dataset
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources.example import Source

_QUALITY = 90


def find(folder: str | None, least: int) -> list[str]:
  """Paths of the JPEGs in a folder; None takes photos of scikit-learn.

  Exits if there are fewer than `least`.
  """
  if folder is None:
    import sklearn.datasets

    images = pathlib.Path(sklearn.datasets.__file__).parent / 'images'
    return [str(path) for path in sorted(images.glob('*.jpg'))] * 100
  found = sorted(
    str(path.absolute())
    for path in pathlib.Path(folder).rglob('*')
    if path.suffix.lower() in ('.jpg', '.jpeg')
  )
  if len(found) < least:
    sys.exit(f'{folder}: {len(found)} JPEGs, fewer than {least}')
  return found


def write(paths: Sequence[str], folder: pathlib.Path) -> dict[str, Source]:
  """Writes `kept`, `gridded` and `plain`, and opens them."""
  images = folder / 'images' / 'train'
  for i, path in enumerate(paths):
    link = images / f'class{i % 2}' / f'{i:06}.jpg'
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path)
  sources = {
    'kept': _prepare(images.parent, folder / 'kept', keep=True),
    'gridded': _prepare(images.parent, folder / 'gridded', keep=False),
  }
  small = folder / 'small'
  for index in range(len(sources['gridded'])):
    example = sources['gridded'].read(index)
    path = small / 'train' / f'class{example.label}' / f'{index:06}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_plain(decode.open_rgb(example.data)))
  sources['plain'] = _prepare(small, folder / 'plain', keep=True)
  return sources


def _plain(image: Image.Image) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', quality=_QUALITY, optimize=True)
  return buffer.getvalue()


def compare(
  source: Source, count: int, *, size: int, scale: tuple[float, float]
) -> timing.Row:
  """Compares crops of gridded and of plain JPEGs, written of equal pixels."""
  most = 0
  for index in range(count):
    image = decode.open_rgb(source.read(index).data)
    files = jpeg_grid.encode(image, quality=_QUALITY), _plain(image)
    gridded, plain = (
      decode.random_resized_crop(
        data, draws.draw(0, 0, index, 1)[0], size=size, scale=scale
      ).astype(int)
      for data in files
    )
    most = max(most, int(np.abs(gridded - plain).max()))
  return {'images': count, 'largest difference': most}


def _prepare(images: pathlib.Path, out: pathlib.Path, *, keep: bool) -> Source:
  with contextlib.redirect_stdout(sys.stderr):
    jpeg = JpegSettings(500, _QUALITY, keep_small=keep)
    write_dataset(f'folder:{images}', out, jpeg=jpeg)
  return datasets.open_source(str(out), 'train')


def sizes(sources: Mapping[str, Source]) -> list[timing.Row]:
  """Images and megabytes of each."""
  rows = []
  for name, source in sources.items():
    total = sum(len(source.read(i).data) for i in range(len(source)))
    rows.append({'dataset': name, 'images': len(source), 'MB': total / 1e6})
  return rows
