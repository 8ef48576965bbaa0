"""Exact search on a CPU in the way that is expected to be the fastest.

Rows in memory are first multiplied up to some width only, in tiles or by the
BLAS; those that may still be among the k best are read on, up to the level that
rules them out. `choice` says which width that is; it may be the full one. What
a shortlist by the tiles scores tells from the start what a row has to reach.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mrl_jax.retrieval.cpu import bounds
from mrl_jax.retrieval.cpu import choice
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu import stored
from mrl_jax.retrieval.cpu import threads

# Neighbours found in one pass over the rows, and queries of a pass.
_FOUND, _IN_MEMORY, _ON_DISK = 1 << 21, 2048, 4096
# So many queries are shared among the threads, fewer share out the rows; and
# multiply-adds that are worth another thread.
_MANY, _WORK = 64, 1 << 19
# Products of the BLAS that are looked at together, and rows of them.
_PRODUCTS, _ROWS = 1 << 18, 8192
# Rows that are ranked once more beside the k best.
_SPARE = 32
# What rounding may take from a score, as a share of the norms.
_ROUNDING = np.float32(2e-6)
_LAST = np.iinfo(np.uint64).max


class Found(NamedTuple):
  """The best rows of each query, and the multiply-adds of a query."""

  ids_QK: np.ndarray
  score_QK: np.ndarray
  products: float


def nearest(query_Qd: np.ndarray, database: Any, k: int, *, cosine: bool):
  """The k best rows of each query, as `Found`; ties go to the lower id.

  Args:
    query_Qd: float32 prefixes, whose width is that of the search.
    database: a `Database`. A file is read once for some thousand queries, and
      in full, since a disk gives no part of a row sooner.
    k: at most M.
    cosine: whether scores are divided by the norms.
  """
  most = _ON_DISK if stored.is_file(database) else _IN_MEMORY
  group, Q = max(1, min(most, _FOUND // k)), len(query_Qd)
  if Q < choice.FEW and stored.is_at_hand(database):
    return _nearest(query_Qd, database, k, cosine)
  with threads.single_blas():
    parts = [
      _nearest(query_Qd[start : start + group], database, k, cosine)
      for start in range(0, Q, group)
    ]
  products = sum(part.products * len(part.ids_QK) for part in parts) / Q
  return Found(*map(np.concatenate, list(zip(*parts))[:2]), products)


def rescore(
  query_Qd: np.ndarray,
  database: Any,
  ids_QK: np.ndarray,
  k: int,
  *,
  cosine: bool,
) -> Found:
  """The k best of the rows `ids_QK` (-1 for none), best first if known.

  The other arguments are those of `nearest`. Where a query has fewer rows than
  k, its last entries have no meaning.
  """
  dim, K = query_Qd.shape[1], ids_QK.shape[1]
  rows = stored.rows(database, dim, cosine)
  queries = _queries(query_Qd)
  if stored.is_at_hand(database):
    return _ranked(queries, rows, ids_QK, k)
  best = _Best(queries, k, ids_QK.size * dim)

  def convert_and_rank(queries, found, own, share):
    place_1K, read = np.arange(K)[None, share], 0
    for q, ids_K in enumerate(ids_QK[own]):
      vectors = rows._replace(vector_BD=stored.read(database, ids_K, dim))
      one = kernels.Queries(*(x[q : q + 1] for x in queries))
      part = kernels.Best(*(x[q : q + 1] for x in found[:3]), k)
      read += kernels.rank(one, vectors, place_1K, ids_K[None, share], part)
    return read

  best.run(convert_and_rank, K)
  return best.found()


def _nearest(query_Qd, database, k, cosine, level=None) -> Found:
  """`nearest` for a group of queries; `level` is what `choice` finds if None."""
  (Q, dim), M = query_Qd.shape, len(database.embedding_MD)
  queries, tile_NWT = _queries(query_Qd), database.tile_NWT
  if tile_NWT is not None and dim <= tile_NWT.shape[1]:
    rows = stored.rows(database, dim, cosine)
    return _in_tiles(queries, tile_NWT, rows, k)
  best = _Best(queries, k, Q * M * dim)
  if not stored.is_at_hand(database):
    for rows in stored.blocks(database, dim, cosine, _ROWS * threads.count()):
      _multiply(best, rows, len(rows.level_L) - 1, kernels.sift)
    return best.found(M * dim)
  rows = stored.rows(database, dim, cosine, bounded=True)
  last, has_tiles = len(rows.level_L) - 1, tile_NWT is not None
  chosen = level
  if level is None:
    chosen = choice.level(queries, rows, k, has_tiles)
  if 0 < chosen < last and has_tiles and 32 * k <= M:
    least_Q = _seed(queries, tile_NWT, rows, k)
    best = _Best(queries, k, Q * M * dim, least_Q)
    if level is None and chosen > 1:
      chosen = choice.level(queries, rows, k, has_tiles, least_Q)
  if chosen == 0:
    best.run(
      lambda queries, found, own, share: kernels.scan_rows(
        queries, rows, found, share.start, share.stop
      ),
      M,
    )
  elif chosen == last:
    return _in_full(queries, rows, k)
  elif chosen == 1 and has_tiles:
    _scan(best, tile_NWT, rows, rows.level_L[1], 1)
  else:
    _multiply(best, rows, chosen, kernels.sift)
  return best.found(M * rows.level_L[chosen])


def _in_full(queries, rows, k) -> Found:
  """Multiplies all rows in full by the BLAS, and scores the best once more.

  The BLAS rounds equal rows differently. Where rounding may have left out one
  of the k best, as with many equal rows, each row in question is scored again.
  """
  (Q, dim), M = queries.vector_Qd.shape, len(rows.norm_B)
  last, work = len(rows.level_L) - 1, Q * M * dim
  kept = _Best(queries, min(M, k + max(_SPARE, k // 8)), work)
  _multiply(kept, rows, last, kernels.keep)
  kept = kept.found()
  found = _ranked(queries, rows, kept.ids_QK, k)._replace(products=M * dim)
  if kept.ids_QK.shape[1] == M:
    return found
  largest = (rows.size_B / rows.norm_B).max()
  margin_Q = _ROUNDING * queries.tail_QL[:, 0] * largest
  unsure_Q = kept.score_QK[:, -1] + margin_Q >= found.score_QK[:, -1]
  if unsure_Q.any():
    some = kernels.Queries(*(x[unsure_Q] for x in queries))
    best = _Best(some, k, work)
    _multiply(best, rows, last, kernels.sift)
    for array, values in zip(found[:2], best.found(), strict=False):
      array[unsure_Q] = values
  return found


def _in_tiles(queries, tile_NWT, rows, k) -> Found:
  """The best rows by as many dims as tiles have, or fewer."""
  (Q, width), M = queries.vector_Qd.shape, len(rows.norm_B)
  padded_Qd = np.pad(queries.vector_Qd, ((0, 0), (0, -width % kernels.LANE)))
  best = _Best(queries._replace(vector_Qd=padded_Qd), k, Q * M * width)
  _scan(best, tile_NWT, rows, padded_Qd.shape[1], 0)
  return best.found(M * width)


def _scan(best, tile_NWT, rows, width, level) -> None:
  def work(queries, found, own, share):
    begin = share.start * kernels.TILE
    return kernels.scan_tiles(
      tile_NWT[share], width, queries, rows, found, begin, level
    )

  best.run(work, len(tile_NWT))


def _multiply(best, rows, level, loop) -> None:
  """Multiplies rows up to a level by the BLAS, and hands products to a loop."""
  width, tile = rows.level_L[level], kernels.TILE

  def work(queries, found, own, share):
    query_Qd = np.ascontiguousarray(queries.vector_Qd[:, :width])
    size = max(1, min(_ROWS, _PRODUCTS // len(query_Qd)) // tile) * tile
    stop = min(share.stop * tile, len(rows.norm_B))
    read, product_QB = 0, np.empty((len(query_Qd), size), np.float32)
    for begin in range(share.start * tile, stop, size):
      row_Bd = rows.vector_BD[begin : min(begin + size, stop), :width]
      part_QB = product_QB[:, : len(row_Bd)]
      if len(row_Bd) < size:
        part_QB = np.empty(part_QB.shape, np.float32)
      np.matmul(query_Qd, row_Bd.T, out=part_QB)
      read += loop(part_QB, queries, rows, found, begin, level)
    return read

  best.run(work, -(-len(rows.norm_B) // tile))


def _seed(queries, tile_NWT, rows, k) -> np.ndarray:
  """What the k-th best row of each query scores at least."""
  cut = queries._replace(
    vector_Qd=np.ascontiguousarray(queries.vector_Qd[:, : rows.level_L[1]])
  )
  ids_QK = _in_tiles(cut, tile_NWT, rows, 2 * k).ids_QK
  least_Q = _ranked(queries, rows, ids_QK, k).score_QK[:, -1]
  return least_Q - _ROUNDING * np.abs(least_Q)


def _ranked(queries, rows, ids_QK, k) -> Found:
  """The k best of the rows `ids_QK`, which are at hand."""
  best = _Best(queries, k, ids_QK.size * queries.vector_Qd.shape[1])
  best.run(
    lambda queries, found, own, share: kernels.rank(
      queries, rows, ids_QK[own, share], ids_QK[own, share], found
    ),
    ids_QK.shape[1],
  )
  return best.found()


def _queries(query_Qd) -> kernels.Queries:
  tail_QL = bounds.tails(query_Qd, bounds.levels(query_Qd.shape[1]))
  return kernels.Queries(query_Qd, tail_QL)


class _Best:
  """The best rows so far of some queries, and the threads that find them.

  With many queries each thread has its share of them; with few each has all,
  and its share of the rows. Little work is done by one thread.
  """

  def __init__(self, queries, k, work, least_Q=None):
    Q = len(queries.vector_Qd)
    if least_Q is None:
      least_Q = np.full(Q, -np.inf, np.float32)
    self._k, self._products, self._queries = k, 0, Q
    count = threads.count() if work > _WORK else 1
    self._by_query = Q >= _MANY
    own = threads.split(Q, count) if self._by_query else [slice(0, Q)] * count
    self._parts = []
    for part in own:
      size = part.stop - part.start
      found = kernels.Best(
        np.full((size, 2 * k + 64), _LAST), np.zeros(size, np.int64),
        least_Q[part].copy(), k,
      )  # fmt: skip
      some = kernels.Queries(*(x[part] for x in queries))
      self._parts.append((some, found, part))

  def run(self, work: Callable, count: int) -> None:
    """Calls work(queries, best, which queries, which of `count`) by threads."""
    shares = [slice(0, count)] * len(self._parts)
    if not self._by_query:
      shares = threads.split(count, len(self._parts))
    calls = [(*part, x) for part, x in zip(self._parts, shares, strict=True)]
    self._products += sum(threads.run(work, calls))

  def found(self, products: float = 0) -> Found:
    keys = [found.key_QC for _, found, _ in self._parts]
    key_QC = np.concatenate(keys, axis=0 if self._by_query else 1)
    key_QC.sort(axis=1)
    key_QK = key_QC[:, : self._k]
    falling_QK = (key_QK >> np.uint64(32)).astype(np.uint32)
    bits_QK = np.where(
      falling_QK >> 31, falling_QK, ~falling_QK & np.uint32(0x7FFFFFFF)
    )
    ids_QK = (key_QK & np.uint64(0xFFFFFFFF)).astype(np.int64)
    score_QK = bits_QK.astype(np.uint32, copy=False).view(np.float32)
    return Found(ids_QK, score_QK, products + self._products / self._queries)
