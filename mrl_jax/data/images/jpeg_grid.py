"""Writes JPEGs of which a box can be cut without decoding, and cuts it.

A restart marker after every few blocks makes a JPEG a grid of segments that can
be decoded independently. Those that a box touches, joined under a header with
another width and height, are a small JPEG, whose pixels equal those of the
whole one. All segments of an image have as many blocks. An APP9 segment marks
such files; other software reads them as any JPEG.
"""

import io
import math
import struct
from typing import NamedTuple

import numba
import numpy as np
from PIL import Image

# Pixels across a segment: with fewer, markers take more bytes and time; with
# more, more is decoded beside the box. The number of blocks decides in the end.
_SEGMENT = 64
_NAME = b'mrl_jax grid\0'
_MARK = b'\xff\xe9' + struct.pack('>H', 2 + len(_NAME)) + _NAME
_END_OF_IMAGE = 0xD9
# A word with a byte of 255 is found by these: see `_find_marker`.
_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)


class Grid(NamedTuple):
  """How the segments of a JPEG lie.

  `block` is the width and height in pixels of what is coded together, a segment
  is `blocks` of them side by side, `across` segments make up a row, and the
  image has `rows` of them. The first segment begins at byte `start`.
  """

  block: tuple[int, int]
  blocks: int
  across: int
  rows: int
  start: int


def encode(image: Image.Image, *, quality: int, subsampling: int = 2) -> bytes:
  """Encodes an RGB or grey image as a JPEG that `cut` can cut.

  `subsampling` is Pillow's: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0. Raises
  OSError for sides over 65,500 pixels.
  """
  block = 8 if image.mode == 'L' or not subsampling else 16
  blocks = segment_blocks(image.width, block)
  buffer = io.BytesIO()
  # Huffman tables of its own make a file smaller, and sooner decoded.
  image.save(
    buffer, 'JPEG', quality=quality, optimize=True, subsampling=subsampling,
    restart_marker_blocks=blocks,
  )  # fmt: skip
  return mark(buffer.getvalue())


def mark(data: bytes) -> bytes:
  """Marks a JPEG whose restart markers lie as `segment_blocks` says."""
  # Behind JFIF's segment, which must be the first.
  at = 4 + int.from_bytes(data[4:6])
  return data[:at] + _MARK + data[at:]


def is_marked(data: bytes, at: int) -> bool:
  """Whether the header's segment at `at` is that of `encode`."""
  return data.startswith(_MARK, at)


def read_grid(
  data: bytes, at: int, size: tuple[int, int], block: tuple[int, int]
) -> Grid:
  """Reads the grid from the rest of a header, which begins at byte `at`.

  `size` is the image's width and height, `block` that of what is coded
  together. Raises ValueError if the segments are not as `encode` writes them.
  """
  blocks = 0
  while at + 6 <= len(data) and data[at] == 0xFF:
    kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
    if kind == 0xDD:
      blocks = int.from_bytes(data[at + 4 : at + 6])
    elif kind == 0xDA:
      columns, rows = (-(-x // y) for x, y in zip(size, block, strict=True))
      start = at + 2 + length
      if not blocks or columns % blocks or start + 2 > len(data):
        break
      return Grid(block, blocks, columns // blocks, rows, start)
    at += 2 + length
  raise ValueError('its segments do not make up a grid')


def cut(
  data: bytes,
  grid: Grid,
  size: tuple[int, int],
  offset: int,
  box: tuple[float, float, float, float],
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
  """Cuts out the segments that a box touches.

  `size` is the image's width and height, `offset` where the header has them.
  Returns a JPEG, uint8 [bytes], and the box of its pixels in the whole image.
  Raises ValueError if a segment that lies before the end of the box is missing,
  or markers do not count up.
  """
  across, down = grid.blocks * grid.block[0], grid.block[1]
  left, top = max(int(box[0]), 0) // across, max(int(box[1]), 0) // down
  right = min(-(-math.ceil(box[2]) // across), grid.across)
  bottom = min(-(-math.ceil(box[3]) // down), grid.rows)
  found = np.empty(len(data), np.uint8)
  count = _cut(
    np.frombuffer(data, np.uint8), np.frombuffer(data, '<u8', len(data) // 8),
    grid.start, (grid.across, grid.rows), (left, top, right, bottom), found,
  )  # fmt: skip
  if not count:
    raise ValueError('its restart markers do not count up')
  left, right = left * across, min(right * across, size[0])
  top, bottom = top * down, min(bottom * down, size[1])
  struct.pack_into('>HH', found, offset, bottom - top, right - left)
  return found[:count], (left, top, right, bottom)


@numba.njit(nogil=True, cache=True)
def _cut(data, words, start, size, box, found):
  """Copies the header and a box of segments; returns the bytes, or 0.

  `words` are the same bytes, eight at a time.
  """
  across, rows = size
  left, top, right, bottom = box
  found[:start] = data[:start]
  read = written = start
  marker_S = np.empty(right, np.int64)
  number = 0
  for row in range(bottom):
    is_last = row == rows - 1
    for segment in range(across if row < bottom - 1 else right):
      if segment == left:
        first = read
      end = _find_marker(data, words, read)
      expected = 0xD0 + (row * across + segment) % 8
      if is_last and segment == across - 1:
        expected = _END_OF_IMAGE
      if data[end + 1] != expected:
        return 0
      read = end + 2
      if segment < right:
        marker_S[segment] = end + 1
      if row >= top and segment == right - 1:
        source, target = data[first:read], found[written:]
        for i in range(len(source)):  # Five times as fast as a slice.
          target[i] = source[i]
        for kept in range(left, right):
          target[marker_S[kept] - first] = 0xD0 + number % 8
          number += 1
        written += len(source)
  found[written - 1] = _END_OF_IMAGE
  return written


@numba.njit(nogil=True, cache=True)
def _find_marker(data, words, start):
  """The position of the next marker, at most that of the last two bytes."""
  # Unsigned, as Numba looks whether a signed index is negative.
  at, one, last = np.uint64(start), np.uint64(1), np.uint64(len(data) - 2)
  while at < last:
    if at & np.uint64(7) == 0:
      word = at >> np.uint64(3)
      # On to a word with a byte of 255.
      while word < len(words) and not (
        (~words[word] - _ONES) & words[word] & _HIGH
      ):
        word += one
      at = min(word << np.uint64(3), last)
    if data[at] == 0xFF:
      if data[at + one]:
        return np.int64(at)
      at += one
    at += one
  return np.int64(last)


def segment_blocks(width: int, block: int) -> int:
  """The blocks of a segment, in an image whose blocks are `block` pixels wide.

  That is the divisor of those in a row that is nearest to 64 pixels.
  """
  columns, usual = -(-width // block), max(_SEGMENT // block, 1)
  divisors = (n for n in range(1, columns + 1) if columns % n == 0)
  return min(divisors, key=lambda n: max(n / usual, usual / n))
