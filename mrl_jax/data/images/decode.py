"""Encoded bytes to uint8 RGB pixels."""

import math

import numpy as np
from PIL import Image

from mrl_jax.data.images import formats
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images import orientation as orientation_lib
from mrl_jax.data.images import resize as resample
from mrl_jax.data.images import rgb

# A strip of 60,000x1 pixels would become 12 GB.
_MOST_PIXELS = 100_000_000
# A JPEG of more is decoded at 1/2, 1/4 or 1/8 where that is enough: Pillow
# takes 4 bytes a pixel, in every thread.
_LARGE = jpeg_box.LARGE


class DamagedImageError(Exception):
  """An image that begins as one but cannot be decoded."""


def open_rgb(
  data: bytes,
  *,
  at_least: tuple[int, int] | None = None,
  above: int = 0,
  as_seen: bool = False,
) -> Image.Image:
  """Decodes to an RGB image; grey, palette, CMYK and alpha are converted.

  Args:
    data: an encoded image; of several pictures in it the first is taken.
    at_least: a width and height, of the image as it is stored; a JPEG may be
      decoded at 1/2, 1/4 or 1/8 of its size if that is no smaller.
    above: only a JPEG of more pixels than these is decoded smaller.
    as_seen: turn the image as its EXIF orientation says, and lay transparent
      pixels over white; else both are as they are stored.

  Raises:
    DamagedImageError: it cannot be decoded, is too large to be (which its
      header tells, before any pixel is decoded), or `rgb.to_rgb` refuses it.
  """
  # Pillow raises a dozen types on files cut short or overwritten.
  try:
    try:
      return _decode(data, at_least, above, as_seen)
    except Exception:
      if not data.startswith(b'\x89PNG'):
        raise
      # What is wrong may be a text, or the colour profile.
      return _decode(formats.without_metadata(data), at_least, above, as_seen)
  except Exception as error:
    raise DamagedImageError(str(error)) from error


def _decode(data, at_least, above, as_seen) -> Image.Image:
  image = formats.open_image(data)
  width, height = image.size
  if width * height > jpeg_box.MOST_PIXELS:
    raise ValueError(jpeg_box.too_large(width, height, jpeg_box.MOST_PIXELS))
  # A progressive JPEG is held in memory as a whole, at whatever size.
  if (
    at_least
    and width * height > above
    and not (width * height > _MOST_PIXELS and image.info.get('progressive'))
  ):
    image.draft(None, at_least)
  if math.prod(image.size) > _MOST_PIXELS:
    raise ValueError(jpeg_box.too_large(width, height, _MOST_PIXELS))
  return convert(image, as_seen=as_seen)


def convert(image: Image.Image, *, as_seen: bool) -> Image.Image:
  """An opened image as `open_rgb` has it; raises DamagedImageError likewise."""
  try:
    converted = rgb.to_rgb(image, over_white=as_seen)
    if not as_seen:
      return converted
    # Read when the pixels are loaded, see there.
    return orientation_lib.turn(converted, orientation_lib.read(image))
  except Exception as error:
    raise DamagedImageError(str(error)) from error


def view(
  data: bytes, *, resize: int, size: int, as_seen: bool = False
) -> np.ndarray:
  """The evaluation view of an encoded image, see `evaluation_view`.

  Raises DamagedImageError, from `open_rgb`, beside what that raises.
  """
  # Twice the size, so that antialiasing does the rest.
  at_least = (2 * resize, 2 * resize) if resize else None
  image = open_rgb(data, at_least=at_least, above=_LARGE, as_seen=as_seen)
  return evaluation_view(image, resize=resize, size=size)


def resize_and_crop(
  data: bytes, *, resize: int, size: int, as_seen: bool = False
) -> np.ndarray:
  """As `view`, but an image of a wrong size is told with the config's field."""
  try:
    return view(data, resize=resize, size=size, as_seen=as_seen)
  except ValueError as error:
    raise ValueError(
      f'{error}; or set config.eval_resize to the shorter side to resize to'
    ) from None


def evaluation_view(
  image: Image.Image, *, resize: int, size: int
) -> np.ndarray:
  """The shorter side to `resize`, then a central square.

  Args:
    image: in RGB.
    resize: pixels of the shorter side, bilinear with antialiasing; 0 takes the
      image as it is.
    size: pixels of the square, at most `resize`.

  Returns:
    uint8 [size, size, 3].

  Raises:
    DamagedImageError: the image would become huge.
    ValueError: `resize` is 0 and the image is not a square of `size`.
  """
  width, height = image.size
  if not resize and (width, height) != (size, size):
    raise ValueError(
      f'an image of {width}x{height} pixels: must have {size}x{size}'
    )
  if resize and resize != min(width, height):
    # torchvision's rounding, here and of the corner.
    shorter = min(width, height)
    width, height = width * resize // shorter, height * resize // shorter
    if width * height > _MOST_PIXELS:
      raise DamagedImageError(f'{width}x{height} pixels after resizing')
    image = image.resize((width, height), Image.Resampling.BILINEAR)
  if (width, height) != (size, size):
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.crop((left, top, left + size, top + size))
  return np.asarray(image)


def random_resized_crop(
  data: bytes,
  rng: np.random.Generator,
  *,
  size: int,
  scale: tuple[float, float],
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  as_seen: bool = False,
) -> np.ndarray:
  """torchvision's RandomResizedCrop of an encoded image, uint8 [size, size, 3].

  Args:
    data: an encoded image.
    rng: ten tries for a box draw from it; then the central box is taken.
    size: pixels of the square.
    scale: range of the box's share of the image's area.
    ratio: range of the box's aspect ratio, drawn uniformly in its logarithm.
    as_seen: see `open_rgb`; the box is one of the image as it is seen.
  """
  frame = jpeg_box.read_frame(data)
  if frame:
    stored_as = orientation_lib.read_jpeg(data, frame.offset) if as_seen else 1
    seen_size = orientation_lib.turned_size(frame[:2], stored_as)
    box = _random_box(seen_size, rng, scale, ratio)
    stored_box = orientation_lib.stored_box(box, seen_size, stored_as)
    decoded = jpeg_box.decode(data, frame, stored_box, size=size)
    if decoded:
      pixels_HWC = resample.resize_box(*decoded, size)
      return orientation_lib.turn_pixels(pixels_HWC, stored_as)
  # Pillow may say more, or what is wrong.
  image = open_rgb(
    data, at_least=(8 * size, 8 * size), above=_LARGE, as_seen=as_seen
  )
  if not frame:
    box = _random_box(image.size, rng, scale, ratio)
  elif image.size != seen_size:  # Decoded smaller.
    width, height = image.size
    across, down = width / seen_size[0], height / seen_size[1]
    left, top, right, bottom = box
    box = (left * across, top * down, right * across, bottom * down)
  return resample.resize_box(np.asarray(image), box, size)


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
