"""Memory of batches on the host."""

import collections
from collections.abc import Sequence
import math
import weakref

import numpy as np

# Where devices are CPUs, JAX takes an array that begins at a multiple of it,
# bytes, as it is. It copies others, which costs more than filling them; NumPy's
# begin 16 bytes behind one.
_ALIGNED = 64


class Arrays:
  """Makes arrays of uint8, from the memory of those that are gone.

  So pages need not be cleared again. Threads may share it.
  """

  def __init__(self):
    self._kept: dict[int, list[bytearray]] = collections.defaultdict(list)

  def empty(self, shape: Sequence[int]) -> np.ndarray:
    """An array with whatever is in its memory.

    Once JAX has it nobody may write into it. Its memory is used again when
    nobody refers to it any more.
    """
    size = math.prod(shape)
    kept = self._kept[size]
    try:
      memory = kept.pop()
    except IndexError:
      memory = bytearray(size + _ALIGNED)
    whole = np.frombuffer(memory, np.uint8)
    # What is cut from an array refers to it, and JAX to what it was given.
    weakref.finalize(whole, kept.append, memory)
    first = -whole.ctypes.data % _ALIGNED
    return whole[first : first + size].reshape(shape)
