"""Measures the share of its time that training waits for input."""

from collections.abc import Iterator
import time
from typing import Any

# The share of an epoch that is worth a remark.
_LONG = 0.2
# What helps where images are decoded.
_REMEDY = (
  'give it more cores, or smaller images, as written by python -m '
  'mrl_jax.data.prepare --max_side=500 --reencode_all --out=OUT'
)


class InputWait:
  """An iterator over batches that measures the time spent waiting for them."""

  def __init__(
    self,
    batches: Iterator[Any],
    *,
    things: str = 'images',
    remedy: str = _REMEDY,
  ):
    """Takes the batches, their content and what helps, for the advice."""
    self._batches = batches
    self._things, self._remedy = things, remedy
    self._reported = False
    # Seconds, in all and spent waiting, of the log interval and of the epoch.
    self._interval, self._epoch = [0.0, 0.0], [0.0, 0.0]
    self.restart()

  def __iter__(self) -> 'InputWait':
    return self

  def __next__(self) -> Any:
    start = time.perf_counter()
    batch = next(self._batches)
    self._waited += time.perf_counter() - start
    return batch

  def restart(self) -> None:
    """Forgets the time since `share` or `report`, which was not training."""
    self._since, self._waited = time.perf_counter(), 0.0

  def share(self) -> float:
    """The share of the time since the last call spent waiting, 0 to 1."""
    self._add()
    (seconds, waited), self._interval = self._interval, [0.0, 0.0]
    return min(waited / max(seconds, 1e-9), 1.0)

  def report(self) -> str:
    """Advice, the first time that an epoch has waited for long; else empty."""
    self._add()
    (seconds, waited), self._epoch = self._epoch, [0.0, 0.0]
    if self._reported or waited <= _LONG * seconds:
      return ''
    self._reported = True
    return (
      f'training waits for {self._things} {waited / seconds:.0%} of its time: '
      f'{self._remedy}'
    )

  def _add(self) -> None:
    seconds = time.perf_counter() - self._since
    for total in (self._interval, self._epoch):
      total[0] += seconds
      total[1] += self._waited
    self.restart()
