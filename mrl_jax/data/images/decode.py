"""Decodes images to uint8 RGB pixels: the evaluation view, random crops."""

import math

import numpy as np
from PIL import Image

from mrl_jax.data.images import central
from mrl_jax.data.images import formats
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images import orientation
from mrl_jax.data.images import raw
from mrl_jax.data.images import rgb
from mrl_jax.data.images.random_box import Draws
from mrl_jax.data.images.random_box import random_box
from mrl_jax.data.images.region import Region

# A strip of 60,000x1 pixels would be resized to 12 GB.
_MOST_PIXELS = 100_000_000


class DamagedImageError(Exception):
  """An image that begins as one but cannot be decoded."""


def open_rgb(
  data: bytes,
  *,
  at_least: tuple[int, int] | None = None,
  above: int = 0,
  as_seen: bool = False,
) -> Image.Image:
  """Decodes an image to RGB; grey, palette, CMYK and alpha are converted.

  Of several pictures the first is taken. A JPEG with more than `above` pixels
  is decoded at 1/2, 1/4 or 1/8 of its size if that is no smaller than
  `at_least`, width and height of the image as it is stored. `as_seen` turns the
  image as its EXIF orientation says, and lays transparent pixels over white;
  else both are as they are stored.

  Raises DamagedImageError if the image cannot be decoded, has too many pixels
  (which is known from its header), or `rgb.to_rgb` refuses it.
  """
  # Pillow raises a dozen types of exceptions for files that are cut short.
  try:
    try:
      return _decode(data, at_least, above, as_seen)
    except Exception:
      if not data.startswith(b'\x89PNG'):
        raise
      # A text or the colour profile may be all that is wrong.
      return _decode(formats.without_metadata(data), at_least, above, as_seen)
  except Exception as error:
    raise DamagedImageError(str(error)) from error


def _decode(data, at_least, above, as_seen) -> Image.Image:
  image = formats.open_image(data)
  width, height = image.size
  if width * height > jpeg_box.MOST_PIXELS:
    raise ValueError(_too_large(width, height, jpeg_box.MOST_PIXELS))
  # A progressive JPEG is held in memory as a whole, at whatever size.
  if (
    at_least
    and width * height > above
    and not (width * height > _MOST_PIXELS and image.info.get('progressive'))
  ):
    image.draft(None, at_least)
  if math.prod(image.size) > _MOST_PIXELS:
    raise ValueError(_too_large(width, height, _MOST_PIXELS))
  return convert(image, as_seen=as_seen)


def _too_large(width: int, height: int, most: int) -> str:
  return (
    f'{width:,}x{height:,} pixels are more than the {most:,} that are decoded'
  )


def convert(image: Image.Image, *, as_seen: bool) -> Image.Image:
  """Converts an opened image to RGB as `open_rgb` does; raises the same."""
  try:
    converted = rgb.to_rgb(image, over_white=as_seen)
    if not as_seen:
      return converted
    # A TIFF must be loaded before its orientation is read.
    return orientation.turn(converted, orientation.read(image))
  except Exception as error:
    raise DamagedImageError(str(error)) from error


def view(
  data: bytes, *, resize: int, size: int, as_seen: bool = False
) -> np.ndarray:
  """Decodes an image, and takes its `evaluation_view`; raises as both do.

  Of a file of `jpeg_grid` only the segments of the central square are decoded,
  so damage below it may go unnoticed. A value half way between two levels may
  be rounded otherwise, as Pillow has the box in single precision.
  """
  region = _gridded_view(data, resize, size, as_seen, jpeg_box.empty)
  if region:
    return region.resize(size)
  image = _open_for_view(data, resize, as_seen)
  return evaluation_view(image, resize=resize, size=size)


def view_region(
  data: bytes,
  *,
  resize: int,
  size: int,
  as_seen: bool = False,
  into: jpeg_box.Empty = jpeg_box.empty,
) -> Region:
  """Decodes the part of an image that becomes its evaluation view.

  `resize` is not 0. Takes `into` as `jpeg_box.decode`, and raises as `view`.
  """
  region = _gridded_view(data, resize, size, as_seen, into)
  if region:
    return region
  image = _open_for_view(data, resize, as_seen)
  _check_resized(central.resized(image.size, resize))
  box, reach = central.box(image.size, resize, size)
  return Region(np.asarray(image), box, reach=reach)


def _open_for_view(data, resize, as_seen) -> Image.Image:
  # Decoded at no less than twice the size, so that antialiasing does the rest.
  at_least = (2 * resize, 2 * resize) if resize else None
  return open_rgb(
    data, at_least=at_least, above=jpeg_box.LARGE, as_seen=as_seen
  )


def _gridded_view(data, resize, size, as_seen, into) -> Region | None:
  """The region of the view in an upright file of `jpeg_grid`, or None."""
  if not resize:
    return None
  try:
    frame = jpeg_box.read_frame(data)
    if (
      not frame
      or not frame.grid
      or (as_seen and orientation.read_jpeg(data, frame.offset) != 1)
    ):
      return None
    pixels = max(
      map(math.prod, (frame[:2], central.resized(frame[:2], resize)))
    )
    if size > resize or pixels > jpeg_box.LARGE:
      return None
    box, reach = central.box(frame[:2], resize, size)
    x, y = reach
    wider = (box[0] - x, box[1] - y, box[2] + x, box[3] + y)
    # A box is decoded smaller only from twice the size on.
    pixels_HWC, (left, top, *_) = jpeg_box.decode(
      data, frame, wider, size=sum(frame[:2]), into=into
    )
  except ValueError as error:
    raise DamagedImageError(str(error)) from error
  left, top = left + x, top + y
  right, bottom = left + box[2] - box[0], top + box[3] - box[1]
  return Region(pixels_HWC, (left, top, right, bottom), reach=reach)


def evaluation_view(
  image: Image.Image, *, resize: int, size: int
) -> np.ndarray:
  """Resizes the shorter side to `resize` and cuts out the central square.

  Returns uint8 [size, size, 3] of an RGB image; both are pixels, `size` at most
  `resize`. Resizing is bilinear with antialiasing; 0 takes the image as it is.
  Raises DamagedImageError if the image would become huge, and ValueError if
  `resize` is 0 and the image is not a square of `size`.
  """
  width, height = image.size
  if not resize and (width, height) != (size, size):
    raise ValueError(
      f'an image of {width}x{height} pixels: must have {size}x{size}'
    )
  if resize and resize != min(width, height):
    width, height = central.resized(image.size, resize)
    _check_resized((width, height))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
  if (width, height) != (size, size):
    left, top = central.corner((width, height), size)
    image = image.crop((left, top, left + size, top + size))
  return np.asarray(image)


def _check_resized(size: tuple[int, int]) -> None:
  if math.prod(size) > _MOST_PIXELS:
    raise DamagedImageError(f'{size[0]}x{size[1]} pixels after resizing')


def random_resized_crop(data: bytes, rng: Draws, **options) -> np.ndarray:
  """Resizes the box of `random_region`, as torchvision's RandomResizedCrop.

  Returns uint8 [size, size, 3]; takes and raises what `random_region` does.
  """
  return random_region(data, rng, **options).resize(options['size'])


def random_region(
  data: bytes,
  rng: Draws,
  *,
  size: int,
  scale: tuple[float, float],
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  as_seen: bool = False,
  into: jpeg_box.Empty = jpeg_box.empty,
) -> Region:
  """Draws a `random_box`, and decodes the part of an image that has it in it.

  With `as_seen`, see `open_rgb`, it lies in the image as it is
  seen. An image much larger than needed for `size` pixels is decoded smaller.
  Takes `into` as `jpeg_box.decode`.
  Raises DamagedImageError as `open_rgb`, and for a file of `jpeg_grid` whose
  segments up to the end of the box are not in order.
  """
  try:
    frame = jpeg_box.read_frame(data)
    if frame:
      stored_as = orientation.read_jpeg(data, frame.offset) if as_seen else 1
      seen_size = orientation.turned_size(frame[:2], stored_as)
      box = random_box(seen_size, rng, scale, ratio)
      stored_box = orientation.stored_box(box, seen_size, stored_as)
      decoded = jpeg_box.decode(data, frame, stored_box, size=size, into=into)
      if decoded:
        return Region(*decoded, stored_as)
  except ValueError as error:
    raise DamagedImageError(str(error)) from error
  stored_HWC = raw.read(data)
  if stored_HWC is not None:
    height, width, _ = stored_HWC.shape
    return Region(stored_HWC, random_box((width, height), rng, scale, ratio))
  # Pillow decodes the rest, or says what is wrong.
  image = open_rgb(
    data, at_least=(8 * size, 8 * size), above=jpeg_box.LARGE, as_seen=as_seen
  )
  if not frame:
    box = random_box(image.size, rng, scale, ratio)
  elif image.size != seen_size:  # Decoded smaller.
    width, height = image.size
    across, down = width / seen_size[0], height / seen_size[1]
    left, top, right, bottom = box
    box = (left * across, top * down, right * across, bottom * down)
  return Region(np.asarray(image), box)
