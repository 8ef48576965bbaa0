"""The best rows of each query so far, and the threads that find them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from mrl_jax.retrieval.cpu import threads

# Multiply-adds that are worth another thread.
_WORK = 1 << 19
_LAST = np.iinfo(np.uint64).max


class Found(NamedTuple):
  """The best rows of each query, and the multiply-adds of a query."""

  ids_QK: np.ndarray
  score_QK: np.ndarray
  products: float


class Best(NamedTuple):
  """The best rows of each query so far, as sort keys, in any order.

  Attributes:
    key_QC: the keys, of which the first count_Q are set, see `_key`.
    least_Q: what a score must reach: the k-th best so far, or a lower number.
      Threads share it; what one may undo of another's only costs time.
    k: how many are wanted, less than C.
  """

  key_QC: np.ndarray
  count_Q: np.ndarray
  least_Q: np.ndarray
  k: int


_options = {'nogil': True, 'cache': True, 'error_model': 'numpy'}
loop = numba.njit(fastmath={'contract', 'nsz'}, **_options)
sums = numba.njit(fastmath={'contract', 'nsz', 'reassoc'}, **_options)


@loop
def _key(score, row):
  """Rises as the score falls, and with the row where scores are equal."""
  bits = np.float32(score + np.float32(0)).view(np.uint32)
  if bits == np.uint32(0x80000000):
    bits = np.uint32(0)  # -0 and 0 are equal.
  # The bits of negative floats fall already while the floats rise.
  if not bits >> np.uint32(31):
    bits = ~bits & np.uint32(0x7FFFFFFF)
  return (np.uint64(bits) << np.uint64(32)) | np.uint64(row)


@loop
def _score(key):
  bits = np.uint32(key >> np.uint64(32))
  if not bits >> np.uint32(31):
    bits = ~bits & np.uint32(0x7FFFFFFF)
  return np.uint32(bits).view(np.float32)


@loop
def push(best, q, score, row):
  """Adds a row. Where there is no more room, all but the k best are dropped."""
  key_C, count = best.key_QC[q], best.count_Q[q]
  key_C[count] = _key(score, row)
  count += 1
  if count == len(key_C):
    count = best.k
    _select(key_C, count)
    worst = key_C[0]
    for i in range(count):
      worst = max(worst, key_C[i])
    best.least_Q[q] = max(best.least_Q[q], _score(worst))
  best.count_Q[q] = count


@loop
def _select(key_C, k):
  """Moves the k smallest keys to the front (Hoare's quickselect)."""
  low, high = 0, len(key_C) - 1
  while low < high:
    a, b, c = key_C[low], key_C[(low + high) // 2], key_C[high]
    pivot = max(min(a, b), min(max(a, b), c))
    i, j = low, high
    while i <= j:
      while key_C[i] < pivot:
        i += 1
      while key_C[j] > pivot:
        j -= 1
      if i <= j:
        key_C[i], key_C[j] = key_C[j], key_C[i]
        i, j = i + 1, j - 1
    if k - 1 <= j:
      high = j
    elif k - 1 >= i:
      low = i
    else:
      return


@loop
def add(score_QK, ids_QK, left_QK, best):
  """Adds rows whose scores are known, but for those that are left out."""
  for q in range(len(ids_QK)):
    for j in range(ids_QK.shape[1]):
      if not left_QK[q, j]:
        push(best, q, score_QK[q, j], ids_QK[q, j])


class Search:
  """The best rows so far of some queries, and the threads that find them.

  Each thread has its share of the rows. Little work is done by one thread.
  """

  def __init__(
    self,
    queries: Any,
    k: int,
    work: int,
    least_Q: np.ndarray | None = None,
  ):
    Q = len(queries.vector_Qd)
    if least_Q is None:
      least_Q = np.full(Q, -np.inf, np.float32)
    self._queries, self._k, self._products = queries, k, 0
    self.parts = [
      Best(np.full((Q, 2 * k + 64), _LAST), np.zeros(Q, np.int64), least_Q, k)
      for _ in range(threads.count() if work > _WORK else 1)
    ]

  def run(self, work: Callable, count: int) -> None:
    """Calls work(queries, best, share of `count`) by each thread."""
    shares = threads.split(count, len(self.parts))
    calls = [(self._queries, *x) for x in zip(self.parts, shares, strict=True)]
    self._products += sum(threads.run(work, calls))

  def found(self, products: float = 0) -> Found:
    key_QC = np.concatenate([part.key_QC for part in self.parts], axis=1)
    key_QC.sort(axis=1)
    key_QK = key_QC[:, : self._k]
    falling_QK = (key_QK >> np.uint64(32)).astype(np.uint32)
    bits_QK = np.where(
      falling_QK >> 31, falling_QK, ~falling_QK & np.uint32(0x7FFFFFFF)
    )
    ids_QK = (key_QK & np.uint64(0xFFFFFFFF)).astype(np.int64)
    products += self._products / len(key_QC)
    return Found(ids_QK, bits_QK.view(np.float32), products)
