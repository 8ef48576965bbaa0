"""The best rows of each query so far, and the threads that find them."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import numpy as np

from mrl_jax.retrieval.cpu import keys
from mrl_jax.retrieval.cpu import scores
from mrl_jax.retrieval.cpu import stored
from mrl_jax.retrieval.cpu import threads
from mrl_jax.retrieval.cpu.arguments import Best
from mrl_jax.retrieval.cpu.arguments import Queries

# Scores of a sample that one maximum stands for.
_FOLD = 8
# Room for rows beside the k best of a list, longer than this multiple of k.
_SPARE, _SHORT = 6, 3


class Found(NamedTuple):
  """The best rows of each query, and the multiply-adds of a query.

  Where fewer than K rows were looked at, the last ids are -1 and their scores
  -inf.
  """

  ids_QK: np.ndarray
  score_QK: np.ndarray
  products: float


class Search:
  """The best rows so far of some queries, and the threads that find them.

  Each thread has its share of the rows, or with `by_query` of the queries.
  Little work is done by one thread. `spare` is the room beside the k best: with
  less of it a score has to reach the k-th best sooner.
  """

  def __init__(
    self,
    queries: Any,
    k: int,
    work: int,
    least_Q: np.ndarray | None = None,
    *,
    by_query: bool = False,
    spare: int | None = None,
  ):
    Q, room = len(queries.vector_Qd), k + (k + 64 if spare is None else spare)
    if least_Q is None:
      least_Q = np.full(Q, -np.inf, np.float32)
    self.queries, self._k, self.products = queries, k, 0
    self._threads = threads.worth(work)
    self.by_query = by_query
    self.parts = [
      Best(np.full((Q, room), keys.NO_ROW), np.zeros(Q, np.int64), least_Q, k)
      for _ in range(1 if by_query else self._threads)
    ]

  def run(self, work: Callable, count: int) -> None:
    """Calls work(queries, best, share of `count`) by each thread.

    With `by_query` the share is one of the queries, which are those given.
    """
    calls = []
    if self.by_query:
      count = len(self.queries.vector_Qd)
    for i, share in enumerate(threads.split(count, self._threads)):
      queries, part = self.queries, self.parts[0 if self.by_query else i]
      if self.by_query:
        queries = type(queries)(*(x[share] for x in queries))
        part = Best(*(x[share] for x in part[:3]), self._k)
      calls.append((queries, part, share))
    self.products += sum(threads.run(work, calls))

  def is_full_Q(self) -> np.ndarray:
    """Which queries have k rows."""
    return sum(part.count_Q for part in self.parts) >= self._k

  def found(self, products: float = 0) -> Found:
    parts = [  # In one layout, for which Numba has compiled.
      np.ascontiguousarray(part.key_QC[:, : max(self._k, part.count_Q.max())])
      for part in self.parts
    ]
    key_QC = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    ids_QK = np.empty((len(key_QC), self._k), np.int64)
    score_QK = np.empty((len(key_QC), self._k), np.float32)
    threads.share(
      lambda x: keys.unpack(key_QC[x], ids_QK[x], score_QK[x]),
      len(key_QC), 8 * key_QC.size,
    )  # fmt: skip
    products += self.products / len(key_QC)
    return Found(ids_QK, score_QK, products)


def scan(
  add: Callable, queries: Any, k: int, work: int, least_Q=None, **options
) -> Found:
  """The k best of the rows that add(search) adds and that reach a threshold.

  Queries for which fewer than k do so start anew without one. The options are
  those of `Search`.
  """
  search = Search(queries, k, work, least_Q, **options)
  add(search)
  found, left_Q = search.found(), ~search.is_full_Q()
  if least_Q is not None and left_Q.any():
    search = Search(stored.queries(queries.vector_Qd[left_Q]), k, work)
    add(search)
    found.ids_QK[left_Q], found.score_QK[left_Q] = search.found()[:2]
  return found


def estimate(query_Qd, row_dS, k: int, count: int) -> np.ndarray:
  """A score that about k of `count` rows reach, and some more; by a sample."""
  (Q, dim), S = query_Qd.shape, row_dS.shape[1]
  expected = k * S / count
  # With five standard deviations one query in thousands falls short.
  rank = math.ceil(expected + 5 * math.sqrt(expected) + 3)
  fold = _FOLD if 8 * rank * _FOLD <= S else 1
  size = S // fold
  least_Q = np.full(Q, -np.inf, np.float32)
  if rank >= size:
    return least_Q

  def work(share):
    score_QS = query_Qd[share] @ row_dS[:, : fold * size]
    most_QS = score_QS.reshape(-1, fold, size).max(1)
    least_Q[share] = np.partition(most_QS, size - rank, axis=1)[:, size - rank]

  threads.share(work, Q, Q * fold * size * dim)
  return least_Q - scores.ROUNDING * np.abs(least_Q)


def ranked(
  queries: Queries,
  rows: Any,
  ids_QK: np.ndarray,
  k: int,
  read: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Found:
  """The k best of the rows `ids_QK` (-1 for none), best first if known.

  Rows that are not at hand are fetched by read(ids). Where a query has fewer
  rows than k, its last entries have no meaning.
  """
  Q, K = ids_QK.shape
  # Of a short list every row has room, and is sorted once.
  spare = K - k + 1 if _SHORT * k >= K else _SPARE + k // 4
  best_ids_Qk = np.empty((Q, k), np.int64)
  score_Qk, paid = np.empty((Q, k), np.float32), []

  def rank(part, rows, place_QK):
    paid.append(
      scores.ranked(
        Queries(*(x[part] for x in queries)), rows, place_QK,
        np.ascontiguousarray(ids_QK[part]), spare, best_ids_Qk[part],
        score_Qk[part],
      )
    )  # fmt: skip

  def work(share):
    if read is None:
      rank(share, rows, np.ascontiguousarray(ids_QK[share]))
      return
    for q in range(share.start, share.stop):
      vectors = rows._replace(vector_BD=read(ids_QK[q]))
      rank(slice(q, q + 1), vectors, np.arange(K)[None])

  threads.share(work, Q, ids_QK.size * queries.vector_Qd.shape[1])
  return Found(best_ids_Qk, score_Qk, sum(paid) / Q)
