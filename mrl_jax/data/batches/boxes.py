"""Decoded boxes of images on their way to a program that resizes them.

The boxes of a few images that follow one another lie one behind the other in a
page. All pages have one size, so that one program is compiled for each size of
the results. An image whose box does not fit is resized here, and its box is
then the whole result.
"""

from collections.abc import Iterable
import math
from typing import NamedTuple

import numpy as np

from mrl_jax.data.batches import host_arrays
from mrl_jax.data.images import central
from mrl_jax.data.images import formats
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images.random_box import random_box
from mrl_jax.data.images.region import Region
from mrl_jax.data.sources.example import Source

# A page has the boxes of this many images, or fewer: see `Layout`. They are
# decoded by one thread, so that where they lie does not depend on others.
GROUP = 8
# Boxes of twice the size are decoded at half of it, and one side is at most 4/3
# of the other: so long is the longest, in shares of the size.
_LONGEST = 8 / 3
# The side that boxes are padded to is a multiple of it, pixels.
_MULTIPLE = 32
# Images whose sizes are looked at, and boxes that are drawn.
_SAMPLE, _DRAWN = 256, 2048
# What is decoded with a box of a gridded JPEG: a segment across and one down.
_BESIDE = (68, 20)
# Room above the mean of a page, in standard deviations.
_ROOM = 1.0
# The length of a page is a multiple of it, bytes.
_ROUNDED = 4096


class Layout(NamedTuple):
  """How boxes lie in pages.

  Boxes are resized to `size` pixels. A page has `group` of them in `length`
  bytes, and none has a side of more than `side` pixels.
  """

  size: int
  side: int
  group: int
  length: int


def sample_sizes(source: Source) -> list[tuple[int, int]]:
  """Width and height of a sample of the images.

  The sample is the same for every process and each time.
  """
  count = len(source)
  sizes = []
  for i in range(min(count, _SAMPLE)):
    data = source.read(i * count // min(count, _SAMPLE)).data
    try:
      sizes.append(formats.open_image(data).size)
    # Whoever decodes it counts it.
    except Exception:
      continue
  return sizes or [(1, 1)]


def random_layouts(
  source: Source, sizes: Iterable[int], scale: tuple[float, float], rows: int
) -> dict[int, Layout]:
  """Layouts for boxes of `decode.random_region`, by what they are resized to.

  `rows` is the number of examples of a batch that a device has.
  """
  images = sample_sizes(source)
  rng = np.random.default_rng(0)
  drawn = [
    random_box(image, rng, scale)
    for image in images
    for _ in range(-(-_DRAWN // len(images)))
  ]
  sides_B2 = np.array([(x[2] - x[0], x[3] - x[1]) for x in drawn])
  shorter = sides_B2.min(1).tolist()
  longest = max(map(max, images))
  found = {}
  for size in sizes:
    factors = np.array([jpeg_box.factor(side, size) for side in shorter])
    found[size] = _layout(sides_B2 / factors[:, None], longest, size, rows)
  return found


def central_layout(
  source: Source, *, resize: int, size: int, rows: int
) -> Layout:
  """The layout for boxes of `decode.view_region`; see `random_layouts`."""
  sides = []
  for image in sample_sizes(source):
    (left, top, right, bottom), (x, y) = central.box(image, resize, size)
    sides.append((right - left + 2 * x, bottom - top + 2 * y))
  longest = math.ceil(max(map(max, sides)))
  return _layout(np.array(sides), longest, size, rows)


def _layout(sides_B2: np.ndarray, longest: int, size: int, rows: int) -> Layout:
  group, side = math.gcd(GROUP, rows), padded_side(size, longest)
  bytes_B = 3 * np.minimum(sides_B2 + _BESIDE, side).prod(1)
  room = _ROOM * bytes_B.std() * math.sqrt(group)
  length = group * max(bytes_B.mean(), 3 * size**2) + room + 3 * side
  return Layout(size, side, group, -(-int(length) // _ROUNDED) * _ROUNDED)


def padded_side(size: int, largest: int) -> int:
  """The side of the square that boxes are padded to, pixels.

  `size` is what they are resized to, `largest` the longest side of an image.
  """
  longest = max(size, min(math.ceil(_LONGEST * size), largest))
  return -(-longest // _MULTIPLE) * _MULTIPLE


class Boxes:
  """The boxes of a batch, which threads fill in, each the pages it has.

  `arrays` has what `augment.fetch_boxes` and `augment.resize_boxes` take:
  `page`, uint8 [P, length]; `start` and `stride`, int32 [N], the first byte of
  a box in its page, and the bytes from one row to the next; `box`, float32 [N,
  2, 3], for rows and for columns where the box begins and ends, and the number
  of pixels that may contribute.
  """

  def __init__(self, count: int, layout: Layout, memory: host_arrays.Arrays):
    """Makes room for `count` boxes, a multiple of the layout's `group`."""
    pages = count // layout.group
    self.layout = layout
    self.arrays = {
      'page': memory.empty((pages, layout.length)),
      'start': np.zeros(count, np.int32),
      'stride': np.zeros(count, np.int32),
      # A box of one pixel, for rows without an image.
      'box': np.ones((count, 2, 3), np.float32) * np.float32([0, 1, 1]),
    }
    self._used = [0] * pages
    self._given: list[np.ndarray | None] = [None] * pages

  def into(self, row: int) -> jpeg_box.Empty:
    """Gives an array for the pixels of a row: in its page, if there is room."""

    def empty(shape: tuple[int, ...]) -> np.ndarray:
      given = self._room(row, shape)
      self._given[row // self.layout.group] = given
      return jpeg_box.empty(shape) if given is None else given

    return empty

  def place(self, row: int, region: Region) -> None:
    """Puts the box of a region into its page; rows of a page go upwards."""
    number = row // self.layout.group
    pixels_HWC, box = region.pixels_HWC, region.box
    part = left, top, right, bottom = region.part()
    fits = max(right - left, bottom - top) <= self.layout.side
    in_page = fits and region.orientation == 1
    if in_page and pixels_HWC is not self._given[number]:
      pixels_HWC = self._copy(row, pixels_HWC[top:bottom, left:right])
      part = (0, 0, right - left, bottom - top)
      box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
      in_page = pixels_HWC is not None
    if not in_page:  # A result always has room.
      size = self.layout.size
      pixels_HWC = self._copy(row, region.resize(size))
      part = box = (0, 0, size, size)
    left, top, right, bottom = part
    stride = 3 * pixels_HWC.shape[1]
    used = self._used[number]
    # What was decoded below the last row is not needed.
    self._used[number] = used + bottom * stride
    self.arrays['start'][row] = used + top * stride + 3 * left
    self.arrays['stride'][row] = stride
    self.arrays['box'][row] = (
      (box[1] - top, box[3] - top, bottom - top),
      (box[0] - left, box[2] - left, right - left),
    )

  def _copy(self, row: int, pixels_HWC: np.ndarray) -> np.ndarray | None:
    """The same pixels in the page of a row; None if there is no room."""
    copied_HWC = self._room(row, pixels_HWC.shape)
    if copied_HWC is not None:
      copied_HWC[:] = pixels_HWC
    return copied_HWC

  def _room(self, row: int, shape: tuple[int, ...]) -> np.ndarray | None:
    number, place = divmod(row, self.layout.group)
    used, size = self._used[number], self.layout.size
    # The images behind it need room for a result each, and rows are fetched
    # with what follows them.
    behind = (self.layout.group - 1 - place) * 3 * size**2
    stop = used + math.prod(shape)
    if stop + behind + 3 * self.layout.side > self.layout.length:
      return None
    return self.arrays['page'][number, used:stop].reshape(shape)


def centers(box_N23: np.ndarray, size: int) -> np.ndarray:
  """The centres of output rows and columns in a batch, float32 [N, 2, size]."""
  first_N21, last_N21 = box_N23[..., :1], box_N23[..., 1:2]
  share_11S = (np.arange(size, dtype=np.float32) + 0.5)[None, None] / size
  return first_N21 + share_11S * (last_N21 - first_N21)
