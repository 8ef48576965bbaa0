"""Random numbers of the training crops: pure functions of (seed, position)."""

from collections.abc import Sequence

import numpy as np

from mrl_jax.data.images.random_box import Draws

# Numbers that a crop takes: four for each of ten tries.
_EACH = 40
# Philox makes four numbers for each value of its counter.
_AT_ONCE = 4


class Drawn:
  """Random numbers that were drawn before, uniform in [0, 1)."""

  def __init__(self, numbers: Sequence[float]):
    self._numbers = iter(numbers)

  def uniform(self, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * next(self._numbers)

  def integers(self, high: int) -> int:
    """A whole number in [0, high)."""
    return int(high * next(self._numbers))


def draw(seed: int, epoch: int, position: int, count: int) -> list[Draws]:
  """Draws for the crops at `count` positions of an epoch from `position` on.

  Those of a position do not depend on which others are drawn with it.
  """
  key = np.random.SeedSequence((seed, epoch)).generate_state(2, np.uint64)
  counter = position * _EACH // _AT_ONCE
  philox = np.random.Philox(key=key, counter=[counter, 0, 0, 0])
  numbers = np.random.Generator(philox).random((count, _EACH))
  return [Drawn(row) for row in numbers.tolist()]


def draw_alone(seed: int, epoch: int, position: int, attempt: int) -> Draws:
  """Draws from a generator of their own, which takes 40 us to make.

  Of runs begun before 2026-11-29, and of what replaces a damaged image.
  """
  return np.random.default_rng((seed, epoch, position, attempt))
