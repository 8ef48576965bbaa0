"""Means over seeds, and how far they can be trusted."""

from collections.abc import Iterable
import math
import statistics
from typing import NamedTuple


class Mean(NamedTuple):
  """A mean over seeds, its sample deviation, and how many there are."""

  mean: float
  deviation: float
  count: int

  @property
  def error(self) -> float:
    """The standard error; infinite of a single seed, which tells nothing."""
    if self.count < 2:
      return math.inf
    return self.deviation / math.sqrt(self.count)

  def __str__(self) -> str:
    if self.count < 2:
      return f'{self.mean:.2f}'
    return f'{self.mean:.2f} ± {self.deviation:.2f}'


def mean(values: Iterable[float]) -> Mean:
  found = list(values)
  deviation = statistics.stdev(found) if len(found) > 1 else 0.0
  return Mean(statistics.fmean(found), deviation, len(found))


def difference(first: Mean, second: Mean) -> tuple[float, float]:
  """The difference of two means, and two standard errors of it."""
  return first.mean - second.mean, 2 * math.hypot(first.error, second.error)
