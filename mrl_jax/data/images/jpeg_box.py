"""Decodes only the part of a JPEG that a crop needs."""

from collections.abc import Callable
import math
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg

from mrl_jax.data.images import jpeg_grid
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


# Gives an array of uint8 of a shape.
Empty = Callable[[tuple[int, ...]], np.ndarray]


def empty(shape: tuple[int, ...]) -> np.ndarray:
  """An array of uint8, with whatever is in its memory."""
  return np.empty(shape, np.uint8)


class Frame(NamedTuple):
  """The header of a JPEG.

  The file tells the height, and then the width, in two bytes each at `offset`;
  `band` rows of `block` pixels are coded together. `grid` is that of
  `jpeg_grid`.
  """

  width: int
  height: int
  band: int
  offset: int
  block: int
  grid: jpeg_grid.Grid | None = None


def read_frame(data: bytes) -> Frame | None:
  """Reads the header of a whole JPEG with 8 bits, grey or three components.

  Returns None for every other file, damaged or rare, which Pillow then decodes.
  Raises ValueError for a file of `jpeg_grid` whose header has been damaged.
  """
  marked = False
  if not (data.startswith(_BEGIN) and data.endswith(_END)):
    return None
  at = len(_BEGIN)
  while at + 10 <= len(data) and data[at] == _FILL and data[at + 1] != _SCAN:
    if data[at + 1] in _FRAMES:
      return _parse_frame(data, at, marked)
    marked = marked or jpeg_grid.is_marked(data, at)
    if data[at + 1] == _FILL:
      at += 1
    else:
      at += 2 + int.from_bytes(data[at + 2 : at + 4])
  return None


def _parse_frame(data: bytes, at: int, marked: bool) -> Frame | None:
  bits, height, width, components = struct.unpack_from('>BHHB', data, at + 4)
  factors = data[at + 11 : at + 11 + 3 * components : 3]
  down = [byte & 15 for byte in factors]
  usual = bits == 8 and len(factors) == components and components in (1, 3)
  most = _MOST_PROGRESSIVE if data[at + 1] == _PROGRESSIVE else MOST_PIXELS
  if not (usual and min(down) and 0 < width * height <= most):
    return None
  # A picture of one component is coded block by block, whatever its factors.
  block = (8, 8)
  if components == 3:
    block = (8 * max(byte >> 4 for byte in factors), 8 * max(down))
  frame = Frame(width, height, 8 * max(down), at + 5, block[0])
  if not marked:
    return frame
  grid = jpeg_grid.read_grid(data, at, (width, height), block)
  return frame._replace(grid=grid)


def factor(side: float, size: int) -> int:
  """By how much a box is decoded smaller whose shorter side is to be `size`.

  That is 1, 2, 4 or 8, so that at least `size` of its `side` pixels are left.
  """
  return next(x for x in (8, 4, 2, 1) if x == 1 or side >= x * size)


def decode(
  data: bytes,
  frame: Frame,
  box: Box,
  *,
  size: int,
  into: Empty = empty,
) -> tuple[np.ndarray, Box] | None:
  """Decodes the part of a JPEG that has a box in it.

  That is a cut of a file of `jpeg_grid`, and of others all from the top to the
  lower end of the box. It is decoded at 1/2, 1/4 or 1/8 of its size if both
  sides of the box, in pixels of the whole image, then still have `size` pixels,
  or more than `LARGE` pixels would be decoded. Returns uint8 RGB [rows,
  columns, 3], for a cut the array that `into` gives for its shape, and the box
  in its pixels; None if the decoder fails, as Pillow may not. Raises ValueError
  if the part of a file of `jpeg_grid` is damaged.
  """
  left, top, right, bottom = box
  scale = factor(min(right - left, bottom - top), size)
  while scale < 8 and (
    min(bottom, frame.height) * frame.width > LARGE * scale**2
  ):
    scale *= 2
  corner = (0, 0)
  if frame.grid:
    # Colour is interpolated with the pixel pairs around the box.
    margin = 2 * scale
    wider = (left - margin, top - margin, right + margin, bottom + margin)
    part, found = jpeg_grid.cut(
      data, frame.grid, frame[:2], frame.offset, wider
    )
    corner = found[:2]
    width, height = found[2] - found[0], found[3] - found[1]
  else:
    part, height = _cut_below(data, frame, bottom + scale)
    width = frame.width
  shape = (-(-height // scale), -(-width // scale), 3)
  pixels_HWC = into(shape) if frame.grid else empty(shape)
  try:
    simplejpeg.decode_jpeg(
      part,
      min_height=shape[0],
      min_width=shape[1],
      min_factor=scale,
      buffer=pixels_HWC,
    )
  except ValueError as error:
    # This error tells of the rows left over, after all others were decoded.
    # With strict=False a broken file would show what was in memory before.
    if frame.grid:
      raise
    if 'extraneous bytes before marker' not in str(error):
      return None
  across, down = corner
  return pixels_HWC, (
    (left - across) / scale,
    (top - down) / scale,
    (right - across) / scale,
    (bottom - down) / scale,
  )


def _cut_below(data: bytes, frame: Frame, bottom: float) -> tuple[bytes, int]:
  """Makes an image end below a row; returns it and its height."""
  # The colour of the last rows is interpolated with what lies below them.
  height = math.ceil(bottom / frame.band) * frame.band
  if height >= frame.height:
    return data, frame.height
  # The decoder stops at the last row according to the header.
  end = frame.offset + 2
  return b''.join(
    (data[: frame.offset], height.to_bytes(2), data[end:])
  ), height
