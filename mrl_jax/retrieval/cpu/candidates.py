"""Rows that reach the thresholds of queries, and the k best of them."""

from collections.abc import Sequence
import itertools

import numpy as np

from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu.kernels import Hits

# Mean number of rows of a query that there is room for where all are kept.
ROOM = 8192


class TooManyError(Exception):
  """More rows reach their thresholds than there is room for."""


class Candidates:
  """The rows of which a score reaches the threshold, for some queries.

  Attributes:
    threshold_Q: the least score to keep; it rises once k rows are known and
      more would not fit.
  """

  def __init__(self, threshold_Q: np.ndarray, k: int | None, *, block: int = 0):
    """Makes room for the best k rows of each query.

    With k None none may be lost, and adding more than there is room for raises
    `TooManyError`. `add_scores` adds `block` scores at a time.
    """
    self.threshold_Q = threshold_Q.copy()
    self._k = k
    # Pages that are never written to take no memory.
    size = len(threshold_Q) * (2 * k + kernels.TILE if k else ROOM) + block
    self._hits = Hits(
      np.empty(size, np.int32), np.empty(size, np.int64),
      np.empty(size, np.float32),
    )  # fmt: skip
    self._count = 0

  def add_rows(
    self, query_Qd: np.ndarray, rows: kernels.Rows, first: int
  ) -> None:
    """Scores rows, the first of which has the id `first`."""
    done = 0
    while done < len(rows.vector_BD):
      rest = kernels.Rows(
        read_only(rows.vector_BD[done:]), rows.norm_B[done:], rows.limit
      )
      more, self._count = kernels.scan_rows(
        query_Qd, rest, first + done, self.threshold_Q, self._hits, self._count
      )
      done += more
      if done < len(rows.vector_BD):
        self._make_room()

  def add_scores(self, score_QB: np.ndarray, first: int, size: int) -> None:
    """Adds the scores [Q or more, B] of `size` rows, whose first id is `first`.

    Columns beyond `size` and rows beyond the queries are padding.
    """
    query, Q = 0, len(self.threshold_Q)
    while query < Q:
      query, self._count = kernels.scan_scores(
        score_QB, self.threshold_Q, query, first, size, self._hits, self._count
      )
      if query < Q:
        self._make_room()

  def hits(self) -> Hits:
    """The rows kept so far, in any order."""
    return Hits(*(x[: self._count] for x in self._hits))

  def _make_room(self) -> None:
    """Keeps the k best of each query, and raises its threshold to the last."""
    if self._k is None:
      raise TooManyError
    Q, k = len(self.threshold_Q), self._k
    ids_QK, score_QK, count_Q = best([self.hits()], Q, k)
    full_Q = count_Q >= k
    self.threshold_Q[full_Q] = score_QK[full_Q, -1]
    found_QK = np.arange(k) < count_Q[:, None]
    self._count = int(found_QK.sum())
    kept = np.nonzero(found_QK)[0], ids_QK[found_QK], score_QK[found_QK]
    for array, values in zip(self._hits, kept, strict=True):
      array[: self._count] = values


def best(
  parts: Sequence[Hits], Q: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(ids [Q, k], scores [Q, k], number of hits [Q]) of the k best hits.

  Ties go to the lower id. Where a query has fewer than k hits, its last entries
  have no meaning.
  """
  key_N, begin = kernels.group(
    Hits(*map(np.concatenate, zip(*parts, strict=True))), Q
  )
  for start, end in itertools.pairwise(begin.tolist()):
    key_N[start:end].sort()
  place_QK = begin[:-1, None] + np.arange(k)
  key_QK = np.append(key_N, np.uint64(0)).take(place_QK, mode='clip')
  return *_from_keys(key_QK), np.diff(begin)


def _from_keys(key) -> tuple[np.ndarray, np.ndarray]:
  """Ids and scores, from the keys of `kernels.group`."""
  falling = (key >> np.uint64(32)).astype(np.uint32)
  bits = np.where(falling >> 31, falling, ~falling & np.uint32(0x7FFFFFFF))
  ids = (key & np.uint64(0xFFFFFFFF)).astype(np.int64)
  return ids, bits.astype(np.uint32).view(np.float32)


def read_only(array: np.ndarray) -> np.ndarray:
  """A view that has the same Numba type whether `array` is writable or not."""
  view = array.view(np.ndarray)
  view.flags.writeable = False
  return view
