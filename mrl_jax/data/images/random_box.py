"""Draws the box of a random resized crop."""

import math
from typing import Protocol


class Draws(Protocol):
  """The random numbers of a crop, as `np.random.Generator` has them."""

  def uniform(self, low: float, high: float) -> float: ...

  def integers(self, high: int) -> int: ...


def random_box(
  size: tuple[int, int],
  rng: Draws,
  scale: tuple[float, float],
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """Draws a box in an image of this width and height.

  The box's area, a share of the image's, is uniform in `scale`; its aspect
  ratio is log-uniform in `ratio`. After ten boxes that do not fit, the central
  one is taken. Returns left, top, right and bottom.
  """
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
