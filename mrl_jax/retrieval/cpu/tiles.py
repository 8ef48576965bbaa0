"""Searches by the first dims of all rows, in tiles, and shortlists of them."""

import numpy as np

from mrl_jax.retrieval.cpu import best as best_lib
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu import products
from mrl_jax.retrieval.cpu import scores
from mrl_jax.retrieval.cpu import stored
from mrl_jax.retrieval.cpu import threads
from mrl_jax.retrieval.cpu.best import Found
from mrl_jax.retrieval.cpu.best import Search

# One in so many tiles is looked at for a shortlist that yields thresholds.
_STEP = 2
# Queries of each thread from which on they are shared out in place of rows.
_MANY = 8
# Rows sampled for thresholds.
_SAMPLE = 8192
# Shares of rows that are not ruled out above which all rows are multiplied up
# to the next level of the tiles, and in full.
_SURVIVORS, _MOST = 1 / 32, 1 / 4


def in_tiles(queries, tile_NWT, rows, k, step=1) -> Found:
  """The best rows by as many dims as tiles have, or fewer.

  With a step, only one in so many tiles is looked at. Many queries are shared
  out between the threads, and each starts with an estimate of what its k-th
  best row scores; those for which fewer than k rows reach it start anew.
  """
  (Q, width), M = queries.vector_Qd.shape, len(rows.norm_B)
  padded_Qd = _padded(queries.vector_Qd)
  queries = queries._replace(vector_Qd=padded_Qd)
  by_query, work = _MANY * threads.count() <= Q, Q * M * width // step
  least_Q = None
  if by_query and M // step > 2 * _SAMPLE:
    least_Q = _estimate(queries, tile_NWT[::step], rows.norm_B, k, step)
  found = best_lib.scan(
    lambda search: scan(search, tile_NWT, rows, padded_Qd.shape[1], 0, step),
    queries, k, work, least_Q, by_query=by_query,
  )  # fmt: skip
  return found._replace(products=M * width)


def narrow(query_Qd, tile_NWT, rows, k) -> Found:
  """The best rows of few queries by as many dims as tiles have, or fewer."""
  query_Qd, M = _padded(query_Qd), len(rows.norm_B)
  (Q, width), N = query_Qd.shape, len(tile_NWT)
  ids_QK, score_QK = np.empty((Q, k), np.int64), np.empty((Q, k), np.float32)
  for q, query_d in enumerate(query_Qd):
    product_NT = np.zeros((N, kernels.TILE), np.float32)

    def multiply(share, query_d=query_d, product_NT=product_NT):
      products.multiply(tile_NWT[share], query_d, 0, width, product_NT[share])

    threads.share(multiply, N, M * width)
    kernels.narrow(
      product_NT.reshape(-1)[:M], rows.norm_B, rows.limit, ids_QK[q : q + 1],
      score_QK[q : q + 1],
    )  # fmt: skip
  return Found(ids_QK, score_QK, M * width)


def _padded(query_Qd: np.ndarray) -> np.ndarray:
  """Queries and zeros, up to a multiple of LANE, read-only."""
  if beyond := -query_Qd.shape[1] % kernels.LANE:
    query_Qd = np.pad(query_Qd, ((0, 0), (0, beyond)))
  return stored.read_only(query_Qd)


def _estimate(queries, tile_NWT, norm_M, k, step) -> np.ndarray:
  """Thresholds by rows that lie apart, since adjacent ones often are alike."""
  N, _, tile = tile_NWT.shape
  width, stride = queries.vector_Qd.shape[1], N * tile // _SAMPLE
  ids_NT = np.arange(N)[:, None] * step * tile + np.arange(0, tile, stride)
  is_row_S = (ids_S := ids_NT.ravel()) < len(norm_M)
  row_WNT = np.moveaxis(tile_NWT[:, :width, ::stride], 1, 0)
  row_WS = row_WNT.reshape(width, -1)[:, is_row_S] / norm_M[ids_S[is_row_S]]
  return best_lib.estimate(queries.vector_Qd, row_WS, k, N * tile)


def few(queries, tile_NWT, rows, k, level=None) -> Found:
  """The best rows of few queries, one query after the other.

  All rows are multiplied by the first dims; those that are near by them tell
  what others have to score. While many are not ruled out, all are multiplied up
  to the next level (`level`: up to this one).
  """
  Q, M = len(queries.vector_Qd), len(rows.norm_B)
  search = Search(
    queries, k, M * rows.level_L[1] if Q > 1 else 0, by_query=True
  )

  def work(queries, found, _):
    alone = len(queries.vector_Qd) == Q
    return sum(
      _one((q, queries, tile_NWT, rows, found), level, alone)
      for q in range(len(queries.vector_Qd))
    )

  search.run(work, Q)
  return search.found()


def nearby(queries, tile_NWT, rows, k) -> np.ndarray:
  """What the k-th best of the rows that are near by a prefix scores."""
  (Q, _), M = queries.vector_Qd.shape, len(rows.norm_B)
  search = Search(queries, k, Q * M * rows.level_L[1], by_query=True)
  least_Q = search.parts[0].least_Q

  def work(queries, found, _):
    for q, query_d in enumerate(queries.vector_Qd):
      product_NT = np.zeros((len(tile_NWT), kernels.TILE), np.float32)
      products.multiply(tile_NWT, query_d, 0, rows.level_L[1], product_NT)
      kernels.seed(product_NT.reshape(-1)[:M], queries, rows, found, q)
    return 0

  search.run(work, Q)
  return least_Q


def _one(given, wanted, alone) -> int:
  """Searches for one query, by several threads if it is alone."""
  q, queries, tile_NWT, rows, found = given
  level_L, query_d, M = rows.level_L, queries.vector_Qd[q], len(rows.norm_B)
  product_NT = np.zeros((len(tile_NWT), kernels.TILE), np.float32)
  product_M, level = product_NT.reshape(-1)[:M], 1
  given = product_M, queries, rows, found, q

  def multiply(share):
    dims = level_L[level - 1], level_L[level]
    products.multiply(tile_NWT[share], query_d, *dims, product_NT[share])

  def multiply_in_full(share):
    products.in_full(query_d, rows, share.start, product_M[share])

  threads.share(multiply, len(tile_NWT), alone * M * level_L[1])
  read = kernels.seed(*given)
  id_C = kernels.left(*given, level)
  while level + 2 < len(level_L) and level_L[level + 1] <= tile_NWT.shape[1]:
    if level >= wanted if wanted else len(id_C) < _SURVIVORS * M:
      break
    level += 1
    threads.share(multiply, len(tile_NWT), alone * M * level_L[level] // 2)
    id_C = kernels.left(*given, level)
  read += M * level_L[level]
  if len(id_C) > _MOST * M and not wanted:
    threads.share(multiply_in_full, M, alone * M * level_L[-1])
    read += M * level_L[-1]
    id_C = kernels.left(*given, len(level_L) - 1)
  return read + kernels.finish(id_C, queries, rows, found, q)


def scan(best, tile_NWT, rows, width, level, step=1) -> None:
  """Adds the rows of one in `step` tiles to the best."""
  N = len(tile_NWT)
  count = -(-N // step)

  def work(queries, found, share):
    if best.by_query:
      share = slice(0, count)
    places = share.start * step, min(share.stop * step, N), step
    return kernels.scan_tiles(
      tile_NWT, places, width, queries, rows, found, level
    )

  best.run(work, count)


def seed(queries, tile_NWT, rows, k) -> np.ndarray:
  """What the k-th best row of each query scores at least."""
  cut = queries._replace(
    vector_Qd=np.ascontiguousarray(queries.vector_Qd[:, : rows.level_L[1]])
  )
  ids_QK = in_tiles(cut, tile_NWT, rows, 2 * k, _STEP).ids_QK
  return _least(queries, rows, ids_QK, k)


def _least(queries, rows, ids_QK, k) -> np.ndarray:
  """What the k-th best of these rows scores, or slightly less."""
  least_Q = best_lib.ranked(queries, rows, ids_QK, k).score_QK[:, -1]
  return least_Q - scores.ROUNDING * np.abs(least_Q)
