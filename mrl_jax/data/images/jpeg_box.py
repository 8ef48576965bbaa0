"""Decodes only the part of a JPEG that a crop needs."""

import struct
from typing import NamedTuple

import numpy as np
import simplejpeg

from mrl_jax.data.images.orientation import Box

_BEGIN, _END = b'\xff\xd8', b'\xff\xd9'
_FILL, _SCAN = 0xFF, 0xDA
# Huffman-coded: baseline, extended, progressive.
_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)
# Pixels of the largest JPEG that is decoded, as it can be decoded smaller, and
# of the largest progressive one, which is held in memory as a whole.
MOST_PIXELS, _MOST_PROGRESSIVE = 400_000_000, 100_000_000
# A JPEG with more pixels is decoded at 1/2, 1/4 or 1/8 where that is enough:
# Pillow takes 4 bytes a pixel, in every thread.
LARGE = 25_000_000


class Frame(NamedTuple):
  """The header of a JPEG."""

  width: int
  height: int
  band: int  # Rows of pixels that are coded together.
  offset: int  # The position in the file of the height, two bytes.


def read_frame(data: bytes) -> Frame | None:
  """Reads the header of a whole JPEG with 8 bits, grey or three components.

  Returns None for every other file, damaged or rare, which Pillow then decodes.
  """
  if not (data.startswith(_BEGIN) and data.endswith(_END)):
    return None
  at = len(_BEGIN)
  while at + 10 <= len(data) and data[at] == _FILL and data[at + 1] != _SCAN:
    if data[at + 1] in _FRAMES:
      return _parse_frame(data, at)
    if data[at + 1] == _FILL:
      at += 1
    else:
      at += 2 + int.from_bytes(data[at + 2 : at + 4])
  return None


def _parse_frame(data: bytes, at: int) -> Frame | None:
  bits, height, width, components = struct.unpack_from('>BHHB', data, at + 4)
  factors = [byte & 15 for byte in data[at + 11 : at + 11 + 3 * components : 3]]
  usual = bits == 8 and len(factors) == components and components in (1, 3)
  most = _MOST_PROGRESSIVE if data[at + 1] == _PROGRESSIVE else MOST_PIXELS
  if not (usual and min(factors) and 0 < width * height <= most):
    return None
  return Frame(width, height, 8 * max(factors), at + 5)


def decode(
  data: bytes, frame: Frame, box: Box, *, size: int
) -> tuple[np.ndarray, Box] | None:
  """Decodes a JPEG from its top to the lower end of a box.

  It is decoded at 1/2, 1/4 or 1/8 of its size if both sides of the box, in
  pixels of the whole image, then still have `size` pixels, or more than `LARGE`
  pixels would be decoded. Returns uint8 RGB [rows, columns, 3], and the box in
  its pixels; None if the decoder fails, as Pillow may not.
  """
  left, top, right, bottom = box
  factor = 1
  while factor < 8 and (
    min(right - left, bottom - top) >= 2 * factor * size
    or min(bottom, frame.height) * frame.width > LARGE * factor**2
  ):
    factor *= 2
  # The colour of the last rows is interpolated with what lies below them.
  height = -(-(bottom + factor) // frame.band) * frame.band
  if height < frame.height:
    # The decoder stops at the last row according to the header.
    end = frame.offset + 2
    data = b''.join((data[: frame.offset], height.to_bytes(2), data[end:]))
  height = min(height, frame.height)
  shape = (-(-height // factor), -(-frame.width // factor), 3)
  pixels_HWC = np.empty(shape, np.uint8)
  try:
    simplejpeg.decode_jpeg(
      data,
      min_height=shape[0],
      min_width=shape[1],
      min_factor=factor,
      buffer=pixels_HWC,
    )
  except ValueError as error:
    # This error tells of the rows left over, after all others were decoded.
    # With strict=False a broken file would show what was in memory before.
    if 'extraneous bytes before marker' not in str(error):
      return None
  return pixels_HWC, tuple(side / factor for side in box)
