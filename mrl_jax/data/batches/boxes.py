"""Decoded boxes of images on their way to the step, which resizes them.

All boxes of a training size are padded to one square, so that one program is
compiled for each size. An image that does not fit, or is to be turned, is
resized here, and its box is then the whole result.
"""

import math

import numpy as np

from mrl_jax.data.images import formats
from mrl_jax.data.images.decode import Region
from mrl_jax.data.sources.example import Source

# Boxes of twice the size are decoded at half of it, and one side is at most 4/3
# of the other: so long is the longest, in shares of the size.
_LONGEST = 8 / 3
# Sides of the square are multiples of it, pixels.
_MULTIPLE = 32
# Images whose sizes are looked at.
_SAMPLE = 256


def largest_side(source: Source) -> int:
  """The longest side in a sample of the images, pixels.

  The sample is the same for every process and each time.
  """
  count = len(source)
  largest = 1
  for i in range(min(count, _SAMPLE)):
    data = source.read(i * count // min(count, _SAMPLE)).data
    try:
      largest = max(largest, *formats.open_image(data).size)
    # Whoever decodes it counts it.
    except Exception:
      continue
  return largest


def padded_side(size: int, largest: int) -> int:
  """The side of the square that boxes are padded to, pixels.

  `size` is what they are resized to, `largest` the longest side of an image.
  """
  longest = max(size, min(math.ceil(_LONGEST * size), largest))
  return -(-longest // _MULTIPLE) * _MULTIPLE


def place(
  region: Region, size: int, image_HWC: np.ndarray, box_23: np.ndarray
) -> None:
  """Writes a box, to be resized to `size`, into its part of a batch.

  `image_HWC` is the padded image, of which what lies outside the box is left as
  it is. `box_23` has, for rows and for columns, where the box begins and ends
  in it, and the number of pixels that may contribute.
  """
  left, top, right, bottom = region.box
  x, y = math.floor(left), math.floor(top)
  pixels_HWC = region.pixels_HWC[y : math.ceil(bottom), x : math.ceil(right)]
  height, width, _ = pixels_HWC.shape
  if region.orientation != 1 or max(height, width) > len(image_HWC):
    pixels_HWC, height, width = region.resize(size), size, size
    left, top, right, bottom = x, y, x + size, y + size
  image_HWC[:height, :width] = pixels_HWC
  box_23[:] = (top - y, bottom - y, height), (left - x, right - x, width)


def centers(box_N23: np.ndarray, size: int) -> np.ndarray:
  """The centres of output rows and columns in a batch, float32 [N, 2, size]."""
  first_N21, last_N21 = box_N23[..., :1], box_N23[..., 1:2]
  share_11S = (np.arange(size, dtype=np.float32) + 0.5)[None, None] / size
  return first_N21 + share_11S * (last_N21 - first_N21)
