"""Encoded bytes to uint8 RGB pixels."""

import io
import math

import numpy as np
from PIL import Image

from mrl_jax.data import partial
from mrl_jax.data import resample

# What begins the files of the formats that Pillow and browsers agree on.
_SIGNATURES = (b'\xff\xd8\xff', b'\x89PNG', b'GIF8', b'BM', b'II*\0', b'MM\0*')
# A strip of 60,000x1 pixels would become 12 GB.
_MOST_PIXELS = 100_000_000


class DamagedImageError(Exception):
  """An image that begins as one but cannot be decoded."""


def is_image(head: bytes) -> bool:
  """Whether the first 12 bytes say JPEG, PNG, GIF, BMP, TIFF or WebP."""
  webp = head[:4] == b'RIFF' and head[8:12] == b'WEBP'
  return webp or head.startswith(_SIGNATURES)


def open_rgb(
  data: bytes, *, at_least: tuple[int, int] | None = None
) -> Image.Image:
  """Decodes to an RGB image; grey, palette, CMYK and alpha are converted.

  Args:
    data: an encoded image.
    at_least: a width and height; a JPEG may be decoded at 1/2, 1/4 or 1/8 of
      its size if that is no smaller.

  Raises:
    DamagedImageError: it cannot be decoded.
  """
  try:
    image = Image.open(io.BytesIO(data))
    if at_least:
      image.draft(None, at_least)
    return to_rgb(image)
  # Pillow raises a dozen types on files cut short or overwritten.
  except Exception as error:
    raise DamagedImageError(str(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
  """As `open_rgb` converts. Raises ValueError for floating-point pixels."""
  if image.mode.startswith('I'):
    # 16 bits a channel, which `convert` would clip to 8 instead of scaling.
    wide = np.asarray(image).astype(np.int64).clip(0, 65535)
    image = Image.fromarray((wide >> 8).astype(np.uint8))
  elif image.mode == 'F':
    raise ValueError('floating-point pixels have no known range')
  return image.convert('RGB')


def resize_and_crop(data: bytes, *, resize: int, size: int) -> np.ndarray:
  """The evaluation view of an encoded image, see `evaluation_view`.

  Raises DamagedImageError, from `open_rgb`, beside what that raises.
  """
  image = open_rgb(data)
  try:
    return evaluation_view(image, resize=resize, size=size)
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
) -> np.ndarray:
  """torchvision's RandomResizedCrop of an encoded image, uint8 [size, size, 3].

  Args:
    data: an encoded image.
    rng: ten tries for a box draw from it; then the central box is taken.
    size: pixels of the square.
    scale: range of the box's share of the image's area.
    ratio: range of the box's aspect ratio, drawn uniformly in its logarithm.
  """
  frame = partial.read_frame(data)
  box = decoded = None
  if frame:
    box = _random_box((frame.width, frame.height), rng, scale, ratio)
    decoded = partial.decode(data, frame, box, size=size)
  if decoded is None:
    image = open_rgb(data)
    # Pillow may say more, or what is wrong.
    box = box or _random_box(image.size, rng, scale, ratio)
    decoded = np.asarray(image), box
  return resample.resize_box(*decoded, size)


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
