"""How much of its time training waits for its input."""

from collections.abc import Iterator
import time
from typing import Any

_MUCH = 0.2


class InputWait:
  """Passes batches on, and remembers how long each was waited for."""

  def __init__(self, batches: Iterator[Any]):
    self._batches = batches
    self._reported = False
    # Seconds of the log interval and of the epoch: in all, and of them waited.
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
    """Forgets the time since `share` or `report`: it was not of training."""
    self._since, self._waited = time.perf_counter(), 0.0

  def share(self) -> float:
    """Of the time since the last call, 0 to 1."""
    self._add()
    (seconds, waited), self._interval = self._interval, [0.0, 0.0]
    return min(waited / max(seconds, 1e-9), 1.0)

  def report(self) -> str:
    """At an epoch's end, the first time it waited much: what to do."""
    self._add()
    (seconds, waited), self._epoch = self._epoch, [0.0, 0.0]
    if self._reported or waited <= _MUCH * seconds:
      return ''
    self._reported = True
    return (
      f'training waits for images {waited / seconds:.0%} of its time: give it '
      'more cores, or smaller images, as written by python -m '
      'mrl_jax.data.prepare --max_side=500 --reencode_all --out=OUT'
    )

  def _add(self) -> None:
    seconds = time.perf_counter() - self._since
    for total in (self._interval, self._epoch):
      total[0] += seconds
      total[1] += self._waited
    self.restart()
