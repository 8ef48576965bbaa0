"""Turns a user's images or vectors into the batches that an encoder takes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import os
import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image

from mrl_jax.data.batches import parallel
from mrl_jax.data.images import decode

# A file, an encoded image, an opened one, or pixels, uint8 [H, W, 3].
ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray


def view(image: ImageLike, preprocess: Mapping[str, Any]) -> np.ndarray:
  """The pixels that the encoder takes of an image, uint8 [size, size, 3].

  `preprocess` is the export's preprocess.json. With `as_seen` the image is
  turned as its EXIF orientation says (as by PIL's `ImageOps.exif_transpose`),
  and transparent pixels become white.
  """
  as_seen = preprocess.get('as_seen', False)
  resize, size = preprocess['resize'], preprocess['size']
  if isinstance(image, str | os.PathLike):
    image = pathlib.Path(image).expanduser().read_bytes()
  if isinstance(image, bytes):
    return decode.view(image, resize=resize, size=size, as_seen=as_seen)
  if isinstance(image, np.ndarray):
    _check_pixels(image, ndim=3)
    image = Image.fromarray(image)
  elif not isinstance(image, Image.Image):
    raise ValueError(
      f'{type(image).__name__}: must be a path, bytes, a PIL image, or uint8 '
      '[H, W, 3]'
    )
  image = decode.convert(image, as_seen=as_seen)
  return decode.evaluation_view(image, resize=resize, size=size)


def image_batches(
  images: ImageLike | Sequence[ImageLike],
  batch_size: int,
  view_of: Callable[[ImageLike], np.ndarray],
) -> Iterator[np.ndarray]:
  """Yields batches of views, uint8 [n, size, size, 3], computed by threads.

  Raises ValueError for what is no image; the message names the file, or the
  position among the images.
  """
  if isinstance(images, jax.Array):
    images = np.asarray(images)
  if isinstance(images, np.ndarray):
    _check_pixels(images, ndim=4 if images.ndim == 4 else 3)
    images = images if images.ndim == 4 else [images]
  elif not isinstance(images, list | tuple):
    images = [images]

  def numbered_view(numbered):
    number, image = numbered
    try:
      return view_of(image)
    except (decode.DamagedImageError, ValueError) as error:
      is_path = isinstance(image, str | os.PathLike)
      name = os.fspath(image) if is_path else f'image {number}'
      raise ValueError(f'{name}: {error}') from error

  numbered = (
    [(i, images[i]) for i in range(len(images))[start : start + batch_size]]
    for start in range(0, len(images), batch_size)
  )
  yield from map(np.stack, parallel.map_batches(numbered_view, numbered))


def vector_batches(
  rows: Any, batch_size: int, width: int
) -> Iterator[np.ndarray]:
  """Yields batches of float32 vectors [n, width].

  Raises ValueError for rows that are no floats [N, width].
  """
  row_ND = np.asanyarray(rows)
  if row_ND.shape[1:] != (width,) or row_ND.dtype.kind != 'f':
    raise ValueError(
      f'vectors of {row_ND.dtype} {[*row_ND.shape]}: must be floats '
      f'[N, {width}]'
    )
  for start in range(0, len(row_ND), batch_size):
    yield np.asarray(row_ND[start : start + batch_size], np.float32)


def _check_pixels(image: np.ndarray, *, ndim: int) -> None:
  right = image.ndim == ndim and image.shape[-1] == 3 and image.size
  if not right or image.dtype != np.uint8:
    shape = 'uint8 [H, W, 3]' + (' or [N, H, W, 3]' if ndim == 4 else '')
    raise ValueError(
      f'an array of {image.dtype} {[*image.shape]}: must be {shape}'
    )
