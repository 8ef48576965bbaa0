"""Times of several functions, in alternating rounds."""

from collections.abc import Callable, Mapping
import time

import jax
import numpy as np

from benchmarks.accelerator.sizes import Sizes

# Does a number of steps, and waits until the device has done them.
Steps = Callable[[int], object]
_MOST_ROUNDS, _MOST_STEPS = 50, 1000


def alternate(functions: Mapping[str, Steps], sizes: Sizes) -> dict[str, float]:
  """Median milliseconds of a step of each function.

  After a warm-up each round calls every function in turn, with as many steps as
  fill `sizes.window`, so that what slows the machine down for a while slows all
  of them. Rounds go on for `sizes.seconds` for each function.
  """
  counts = {}
  for name, run in functions.items():
    run(1)
    # The second may still allocate.
    run(1)
    start = time.perf_counter()
    run(1)
    once = max(time.perf_counter() - start, 1e-6)
    counts[name] = int(np.clip(np.ceil(sizes.window / once), 1, _MOST_STEPS))
  times = {name: [] for name in functions}
  end = time.perf_counter() + sizes.seconds * len(functions)
  for number in range(_MOST_ROUNDS):
    if number >= sizes.least_rounds and time.perf_counter() > end:
      break
    for name, run in functions.items():
      start = time.perf_counter()
      run(counts[name])
      seconds = time.perf_counter() - start
      times[name].append(1e3 * seconds / counts[name])
  return {name: float(np.median(values)) for name, values in times.items()}


def repeated(function: Callable[[], object]) -> Steps:
  """Calls a function of JAX as often as asked, and waits for the last result.

  The earlier ones are not kept.
  """

  def run(n):
    result = None
    for _ in range(n):
      result = function()
    jax.block_until_ready(result)

  return run
