"""A part of an image that is still to be resized."""

import math
from typing import NamedTuple

import numpy as np

from mrl_jax.data.images import orientation
from mrl_jax.data.images.orientation import Box
from mrl_jax.data.images.resize import resize_box
from mrl_jax.data.images.resize import resize_with_pillow


class Region(NamedTuple):
  """Decoded pixels, uint8 [rows, columns, 3], and the box of a crop in them.

  After it is resized, the box is turned as EXIF's `orientation` says. Pixels
  beside it contribute up to a distance of `reach`, across and down.
  """

  pixels_HWC: np.ndarray
  box: Box
  orientation: int = 1
  reach: tuple[float, float] = (0, 0)

  def part(self) -> tuple[int, int, int, int]:
    """The box, in whole pixels, with all that contributes to it."""
    height, width, _ = self.pixels_HWC.shape
    (left, top, right, bottom), (x, y) = self.box, self.reach
    return (
      max(math.floor(left - x), 0),
      max(math.floor(top - y), 0),
      min(math.ceil(right + x), width),
      min(math.ceil(bottom + y), height),
    )

  def resize(self, size: int) -> np.ndarray:
    """Resizes the box to uint8 [size, size, 3], and turns it."""
    resized = resize_with_pillow if any(self.reach) else resize_box
    square_HWC = resized(self.pixels_HWC, self.box, size)
    if self.orientation == 1:
      return square_HWC
    return orientation.turn_pixels(square_HWC, self.orientation)
