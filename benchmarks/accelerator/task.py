"""What a part has while it runs: its sizes, its time, and where results go."""

from collections.abc import Callable, Mapping
import dataclasses
import gc
import pathlib
import sys
import time
import traceback
from typing import Any

import jax

from benchmarks.accelerator.sizes import Sizes

Send = Callable[[Mapping[str, Any]], None]


@dataclasses.dataclass
class Task:
  """What a part has while it runs.

  Attributes:
    sizes: the sizes to measure.
    end: when its time is over, on `time.monotonic`'s clock.
    out: the folder of the results, for further files.
    send: takes a result.
    unit: the most seconds that a program of an item has taken so far.
  """

  sizes: Sizes
  end: float
  out: pathlib.Path
  send: Send
  unit: float = 0.0

  def left(self) -> float:
    """Seconds until its time is over."""
    return self.end - time.monotonic()

  def attempt(
    self,
    item: str,
    measure: Callable[[], Mapping[str, Any] | list[dict[str, Any]]],
    *,
    programs: int = 1,
    always: bool = False,
  ) -> bool:
    """Measures an item and sends its result; whether it succeeded.

    `measure` returns the values of one row or, as a list, of several, which
    have names of their own under `item`. Unless it is to be measured `always`,
    an item is skipped if less than half of it is likely to fit into the time
    that is left, to judge by those before and by its number of `programs`.
    """
    expected = programs * self.unit
    if not always and self.left() < expected / 2:
      why = f'{max(self.left(), 0):.0f} s left, and it takes {expected:.0f}'
      self.send({'item': item, 'status': 'skipped', 'why': why})
      return False
    start = time.monotonic()
    status = 'ok'
    try:
      measured = measure()
      rows = measured if isinstance(measured, list) else [measured]
      rows = [{**row, **memory_peak()} for row in rows]
    # Whatever goes wrong is this item's result, and the next one begins.
    except Exception as error:
      status, rows = 'failed', [{'why': line(error)}]
      with open(self.out / 'errors.txt', 'a') as file:
        file.write(f'{item}\n{traceback.format_exc()}\n')
    took = time.monotonic() - start
    self.unit = max(self.unit, took / programs)
    for row in rows:
      self.send({'item': item, 'status': status, **row, 'took s': took})
    free()
    return status == 'ok'


def line(error: BaseException) -> str:
  """An error as one line."""
  text = ' '.join(str(error).split())[:300]
  return f'{type(error).__name__}: {text}'


def memory_peak() -> dict[str, float]:
  """The most that JAX has held in this process, by the device's own count.

  Empty where the device does not count.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' not in stats:
    return {}
  return {'peak MB so far': stats['peak_bytes_in_use'] / 1e6}


def free() -> None:
  """Returns memory that nothing refers to any more, PyTorch's too."""
  gc.collect()
  torch = sys.modules.get('torch')
  if torch is not None and torch.cuda.is_initialized():
    torch.cuda.empty_cache()
