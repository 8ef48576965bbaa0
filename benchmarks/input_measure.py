"""Measures an iterator over batches of images; needs NumPy alone."""

from collections.abc import Callable, Iterator
import itertools
import time
from typing import Any

import numpy as np

BATCH_SIZE, SIZE = 100, 176
# Batches before those that are timed, and after, which are described.
SKIPPED = DESCRIBED = 3


def measure(
  batches: Iterator[Any],
  count: int,
  pixels: Callable[[Any], np.ndarray] = np.asarray,
) -> dict[str, float]:
  """Times `count` batches, and describes the crops of the next three.

  `pixels` waits for a batch, and returns its images, uint8 [N, H, W, 3].
  Returns images a second (`rate`), processor seconds an image (`seconds`), and
  of the crops, in levels of 255, the mean (`level`) and the mean difference of
  neighbours in a row (`change`). Loaders whose boxes and resizing filters are
  alike agree in both.
  """
  # Until as much is made as is taken.
  for _ in range(SKIPPED):
    next(batches)
  start, processor_start = time.perf_counter(), time.process_time()
  for batch in itertools.islice(batches, count):
    pixels(batch)
  seconds = time.perf_counter() - start
  processor = time.process_time() - processor_start
  images = count * BATCH_SIZE
  crops = [
    pixels(batch).astype(np.int16)
    for batch in itertools.islice(batches, DESCRIBED)
  ]
  return {
    'rate': images / seconds,
    'seconds': processor / images,
    'level': float(np.mean(crops)),
    'change': float(np.abs(np.diff(crops, axis=-2)).mean()),
  }
