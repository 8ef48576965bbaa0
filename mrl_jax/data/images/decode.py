"""Decodes images to uint8 RGB pixels: the evaluation view, random crops."""

import math
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from mrl_jax.data.images import formats
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images import jpeg_grid
from mrl_jax.data.images import orientation
from mrl_jax.data.images import rgb
from mrl_jax.data.images.orientation import Box
from mrl_jax.data.images.resize import resize_box

# A strip of 60,000x1 pixels would be resized to 12 GB.
_MOST_PIXELS = 100_000_000


class DamagedImageError(Exception):
  """An image that begins as one but cannot be decoded."""


class Draws(Protocol):
  """The random numbers of a crop, as `np.random.Generator` has them."""

  def uniform(self, low: float, high: float) -> float: ...

  def integers(self, high: int) -> int: ...


class Region(NamedTuple):
  """Decoded pixels, uint8 [rows, columns, 3], and the box of a crop in them.

  After it is resized, the box is turned as EXIF's `orientation` says.
  """

  pixels_HWC: np.ndarray
  box: Box
  orientation: int = 1

  def resize(self, size: int) -> np.ndarray:
    """Resizes the box to uint8 [size, size, 3], and turns it."""
    square_HWC = resize_box(self.pixels_HWC, self.box, size)
    if self.orientation == 1:
      return square_HWC
    return orientation.turn_pixels(square_HWC, self.orientation)


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
    size = jpeg_grid.true_size(image)
    converted = rgb.to_rgb(image, over_white=as_seen)
    if size != converted.size:
      converted = converted.crop((0, 0, *size))
    if not as_seen:
      return converted
    # A TIFF must be loaded before its orientation is read.
    return orientation.turn(converted, orientation.read(image))
  except Exception as error:
    raise DamagedImageError(str(error)) from error


def view(
  data: bytes, *, resize: int, size: int, as_seen: bool = False
) -> np.ndarray:
  """Decodes an image, and takes its `evaluation_view`; raises as both do."""
  # Decoded at no less than twice the size, so that antialiasing does the rest.
  at_least = (2 * resize, 2 * resize) if resize else None
  image = open_rgb(
    data, at_least=at_least, above=jpeg_box.LARGE, as_seen=as_seen
  )
  return evaluation_view(image, resize=resize, size=size)


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
    # Rounded as in torchvision, here and for the corner.
    shorter = min(width, height)
    width, height = width * resize // shorter, height * resize // shorter
    if width * height > _MOST_PIXELS:
      raise DamagedImageError(f'{width}x{height} pixels after resizing')
    image = image.resize((width, height), Image.Resampling.BILINEAR)
  if (width, height) != (size, size):
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.crop((left, top, left + size, top + size))
  return np.asarray(image)


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
) -> Region:
  """Draws a random box, and decodes the part of an image that has it in it.

  The box's area, a share of the image's, is uniform in `scale`; its aspect
  ratio is log-uniform in `ratio`. After ten boxes that do not fit, the central
  one is taken. With `as_seen`, see `open_rgb`, it lies in the image as it is
  seen. An image much larger than needed for `size` pixels is decoded smaller.
  Raises DamagedImageError as `open_rgb`, and for a file of `jpeg_grid` whose
  segments up to the end of the box are not in order.
  """
  try:
    frame = jpeg_box.read_frame(data)
    if frame:
      stored_as = orientation.read_jpeg(data, frame.offset) if as_seen else 1
      seen_size = orientation.turned_size(frame[:2], stored_as)
      box = _random_box(seen_size, rng, scale, ratio)
      stored_box = orientation.stored_box(box, seen_size, stored_as)
      decoded = jpeg_box.decode(data, frame, stored_box, size=size)
      if decoded:
        return Region(*decoded, stored_as)
  except ValueError as error:
    raise DamagedImageError(str(error)) from error
  # Pillow decodes the rest, or says what is wrong.
  image = open_rgb(
    data, at_least=(8 * size, 8 * size), above=jpeg_box.LARGE, as_seen=as_seen
  )
  if not frame:
    box = _random_box(image.size, rng, scale, ratio)
  elif image.size != seen_size:  # Decoded smaller.
    width, height = image.size
    across, down = width / seen_size[0], height / seen_size[1]
    left, top, right, bottom = box
    box = (left * across, top * down, right * across, bottom * down)
  return Region(np.asarray(image), box)


def _random_box(size, rng, scale, ratio):
  width, height = size
  for _ in range(10):
    area = width * height * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(*map(math.log, ratio)))
    box_width = round(math.sqrt(area * aspect))
    box_height = round(math.sqrt(area / aspect))
    if 0 < box_width <= width and 0 < box_height <= height:
      left = int(rng.integers(width - box_width + 1))
      top = int(rng.integers(height - box_height + 1))
      return (left, top, left + box_width, top + box_height)
  box_width = min(width, round(height * ratio[1]))
  box_height = min(height, round(width / ratio[0]))
  left, top = (width - box_width) // 2, (height - box_height) // 2
  return (left, top, left + box_width, top + box_height)
