"""Reads the EXIF orientation of an image, and turns the image upright."""

import numpy as np
from PIL import ExifTags
from PIL import Image

from mrl_jax.data.images import formats

Box = tuple[float, float, float, float]  # Left, top, right, bottom.

_TAG = ExifTags.Base.Orientation
# For each orientation: whether the stored image is transposed, then flipped
# upside down, then flipped left to right, to be upright.
_STEPS = {
  1: (False, False, False),
  2: (False, False, True),
  3: (False, True, True),
  4: (False, True, False),
  5: (True, False, False),
  6: (True, False, True),
  7: (True, True, True),
  8: (True, True, False),
}
_METHODS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# The tag as an EXIF entry begins with it, in either byte order, and the whole
# entry for orientation 1.
_ENTRIES = (
  (b'\x12\x01', b'\x12\x01\x03\0\x01\0\0\0\x01\0'),
  (b'\x01\x12', b'\x01\x12\0\x03\0\0\0\x01\0\x01'),
)


def read(image: Image.Image) -> int:
  """Reads the orientation of an opened image, 1 to 8; 1 if there is none.

  Metadata that cannot be read are no reason to refuse the pixels. A TIFF must
  be loaded before, as Pillow then turns it by itself.
  """
  try:
    value = image.getexif().get(_TAG, 1)
    return value if value in _STEPS else 1
  # Damaged EXIF raises a dozen types.
  except Exception:
    return 1


def read_jpeg(data: bytes, header: int) -> int:
  """Reads the orientation of a JPEG from its first `header` bytes.

  As `read`, but takes microseconds if there is no tag, or it says 1.
  """
  if not _may_be_turned(data[:header]):
    return 1
  try:
    return read(formats.open_image(data))
  # Decoding it will say what is wrong.
  except Exception:
    return 1


def turn(image: Image.Image, orientation: int) -> Image.Image:
  """Turns an image upright."""
  method = _METHODS.get(orientation)
  return image if method is None else image.transpose(method)


def turn_pixels(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
  """Turns an array upright; orientations above 4 exchange its sides."""
  transposed, upside_down, mirrored = _STEPS[orientation]
  if transposed:
    pixels_HWC = pixels_HWC.swapaxes(0, 1)
  pixels_HWC = pixels_HWC[:: -1 if upside_down else 1]
  pixels_HWC = pixels_HWC[:, :: -1 if mirrored else 1]
  return np.ascontiguousarray(pixels_HWC)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
  """Width and height of an image of this size after it is turned upright."""
  return size[::-1] if _STEPS[orientation][0] else size


def stored_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
  """Maps a box of an upright image, of this size, to the image as stored."""
  transposed, upside_down, mirrored = _STEPS[orientation]
  left, top, right, bottom = box
  width, height = size
  if mirrored:
    left, right = width - right, width - left
  if upside_down:
    top, bottom = height - bottom, height - top
  if transposed:
    return top, left, bottom, right
  return left, top, right, bottom


def _may_be_turned(header: bytes) -> bool:
  """Whether Pillow could find another orientation than 1 in these bytes."""
  # XMP may have it, too.
  if b'tiff:Orientation' in header:
    return True
  parts = header.count(b'Exif\0\0')
  if parts != 1:
    return parts > 1  # Two parts may cut an entry in two.
  for tag, upright in _ENTRIES:
    at = header.find(tag)
    while at >= 0:
      kind = header[at + 2 : at + 4]
      # A tag is followed by the number of its type.
      if 0 in kind and 0 < sum(kind) < 14 and header[at : at + 10] != upright:
        return True
      at = header.find(tag, at + 1)
  return False
