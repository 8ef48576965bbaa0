"""What queries have found so far, and the best of it: the host's top k."""

from collections.abc import Sequence
import itertools

import numpy as np

from mrl_jax.retrieval.cpu import kernels

# Rows of each query, on average, that there is room for where all are kept.
ROOM = 8192
# The bound of scores that are no cosines.
UNLIMITED = np.float32(np.inf)


class TooManyError(Exception):
  """More rows reach their floors than there is room for."""


class Candidates:
  """The rows that reach a floor, of some queries.

  Attributes:
    floor_Q: what a score must reach; it rises once k rows are known and more
      would not fit.
  """

  def __init__(
    self,
    floor_Q: np.ndarray,
    k: int | None,
    *,
    block: int,
    most: np.float32 = UNLIMITED,
  ):
    """`block`: rows that are added at a time.

    `k`: the best to keep; None: all, for which `TooManyError` may be raised.

    `most`: what the scores of `add_rows` are cut to, as cosines are to 1.
    """
    self.floor_Q = floor_Q.copy()
    self._k, self._most = k, most
    # Of this only what is written to is taken from memory.
    size = len(floor_Q) * (2 * k + kernels.TILE if k else ROOM) + block
    self._found = _empty(size)
    self._count = 0

  def add_rows(
    self,
    query_Qd: np.ndarray,
    rows_Bd: np.ndarray,
    norm_B: np.ndarray,
    first: int,
  ) -> None:
    """Scores rows, the first of the id `first`, as `kernels.scan_rows` does."""
    done = 0
    while done < len(rows_Bd):
      more, self._count = kernels.scan_rows(
        query_Qd,
        # Read-only, as files are: one compiled function for both.
        read_only(rows_Bd[done:]),
        norm_B[done:],
        self._most,
        self.floor_Q,
        first + done,
        *self._found,
        self._count,
      )
      done += more
      if done < len(rows_Bd):
        self._make_room()

  def add_scores(self, score_QB: np.ndarray, first: int, size: int) -> None:
    """Takes the first `size` columns as rows, `first` the id of the first.

    The queries are the first rows of the scores.
    """
    query, Q = 0, len(self.floor_Q)
    while query < Q:
      query, self._count = kernels.scan_scores(
        score_QB, self.floor_Q, query, first, size, *self._found, self._count
      )
      if query < Q:
        self._make_room()

  def found(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(queries [N], ids [N], scores [N]) in any order."""
    return tuple(x[: self._count] for x in self._found)

  def _make_room(self) -> None:
    """Keeps the k best of each query, and raises its floor to the last."""
    if self._k is None:
      raise TooManyError
    ids_QK, score_QK, count_Q = best([self.found()], len(self.floor_Q), self._k)
    full_Q = count_Q >= self._k
    self.floor_Q[full_Q] = score_QK[full_Q, -1]
    there_QK = np.arange(self._k) < count_Q[:, None]
    self._count = int(there_QK.sum())
    query_N = np.nonzero(there_QK)[0]
    kept = query_N, ids_QK[there_QK], score_QK[there_QK]
    for array, values in zip(self._found, kept, strict=True):
      array[: self._count] = values


def best(
  parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], Q: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(ids [Q, k], scores [Q, k], how many were found [Q]) of all candidates.

  Ties go to the lower id. Where fewer than k were found, the last ones have no
  meaning.
  """
  every = map(np.concatenate, zip(*parts, strict=True))
  key_N, begin = kernels.group(*every, Q)
  for start, end in itertools.pairwise(begin.tolist()):
    key_N[start:end].sort()
  place_QK = begin[:-1, None] + np.arange(k)
  key_QK = np.append(key_N, np.uint64(0)).take(place_QK, mode='clip')
  return *_from_keys(key_QK), np.diff(begin)


def _from_keys(key) -> tuple[np.ndarray, np.ndarray]:
  falling = (key >> np.uint64(32)).astype(np.uint32)
  bits = np.where(falling >> 31, falling, ~falling & np.uint32(0x7FFFFFFF))
  ids = (key & np.uint64(0xFFFFFFFF)).astype(np.int64)
  return ids, bits.astype(np.uint32).view(np.float32)


def _empty(size):
  return (
    np.empty(size, np.int32),
    np.empty(size, np.int64),
    np.empty(size, np.float32),
  )


def read_only(array: np.ndarray) -> np.ndarray:
  """A view that Numba has the same type for, whether `array` is or not."""
  view = array.view(np.ndarray)
  view.flags.writeable = False
  return view
