"""How far a long count is: a bar on a terminal, plain lines elsewhere."""

import sys
import time

import tqdm

_SECONDS = 10  # Between two lines.


class Meter:
  """Counts images, and shows how many a second they are."""

  def __init__(self, total: int, *, done: int = 0):
    self._total, self._count, self._before = total, done, done
    self._begin = self._shown = time.perf_counter()
    self._bar = None
    if sys.stderr.isatty():
      self._bar = tqdm.tqdm(
        total=total, initial=done, unit='image', dynamic_ncols=True
      )

  def add(self, count: int) -> None:
    self._count += count
    if self._bar is not None:
      self._bar.update(count)
      return
    now = time.perf_counter()
    if now - self._shown < _SECONDS and self._count < self._total:
      return
    self._shown = now
    rate = (self._count - self._before) / max(now - self._begin, 1e-9)
    left = (self._total - self._count) / rate
    print(
      f'{self._count:,}/{self._total:,} images  {rate:,.0f} images/s  '
      f'{tqdm.tqdm.format_interval(left)} left',
      flush=True,
    )

  def __enter__(self) -> 'Meter':
    return self

  def __exit__(self, *error) -> None:
    if self._bar is not None:
      self._bar.close()
