"""Exact search on a CPU in the way that is expected to be the fastest.

Rows in memory are first multiplied up to some width only, in tiles or by the
BLAS; those that may still be among the k best are read on, up to the level that
rules them out. `choice` says which width that is; it may be the full one. A
shortlist by the tiles tells from the start what score a row has to reach.
"""

import functools
from typing import Any

import numpy as np

from mrl_jax.retrieval.cpu import best as best_lib
from mrl_jax.retrieval.cpu import choice
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu import keys
from mrl_jax.retrieval.cpu import scores
from mrl_jax.retrieval.cpu import stored
from mrl_jax.retrieval.cpu import threads
from mrl_jax.retrieval.cpu import tiles
from mrl_jax.retrieval.cpu.best import Found
from mrl_jax.retrieval.cpu.best import Search

# Neighbours found in one pass over the rows, and queries of a pass.
_FOUND, _IN_MEMORY, _ON_DISK = 1 << 21, 2048, 4096
# Products of the BLAS that are looked at together, and rows of them.
_PRODUCTS, _ROWS = 1 << 18, 8192
# Rows that are ranked once more beside the k best, and rows sampled.
_SPARE, _SAMPLE = 32, 1024


def nearest(
  query_Qd: np.ndarray,
  database: Any,
  k: int,
  *,
  cosine: bool,
  level: int | None = None,
) -> Found:
  """The k best rows of each query; ties go to the lower id.

  Args:
    query_Qd: float32 prefixes, whose width is that of the search.
    database: a `Database`. A file is read once for some thousand queries, and
      in full, since a disk gives no part of a row sooner.
    k: at most M.
    cosine: whether scores are divided by the norms.
    level: the one of `bounds.levels` up to which all rows are multiplied; -1
      for the last; None: what `choice` expects to be the fastest.
  """
  (Q, dim), M = query_Qd.shape, len(database.embedding_MD)
  # Tiles sum otherwise, and do so for one query and for many.
  if (tile_NWT := database.tile_NWT) is not None and dim <= stored.TILE_DIMS:
    if Q < choice.FEW:
      rows = stored.rows(database, dim, cosine)
      return tiles.narrow(query_Qd, tile_NWT, rows, k)
  elif stored.is_at_hand(database):
    rows = stored.rows(database, dim, cosine, bounded=True)
    if Q * M * dim <= choice.LITTLE:
      return _little(query_Qd, rows, k)
    in_tiles = tile_NWT is not None and 16 * k <= M
    if (
      Q < choice.FEW
      and in_tiles
      and (level is None or rows.level_L[level] <= tile_NWT.shape[1])
    ):
      return tiles.few(stored.queries(query_Qd), tile_NWT, rows, k, level)
  most = _ON_DISK if stored.is_file(database) else _IN_MEMORY
  group = max(1, min(most, _FOUND // k))
  with threads.single_blas():
    parts = [
      _nearest(query_Qd[start : start + group], database, k, cosine, level)
      for start in range(0, Q, group)
    ]
  paid = sum(part.products * len(part.ids_QK) for part in parts) / Q
  return Found(*map(np.concatenate, list(zip(*parts, strict=True))[:2]), paid)


def load(database: Any, *, all_ways: bool) -> None:
  """Searches a small database, so that a process's later searches load nothing.

  Numba reads a loop from its cache when it is first called, which takes some
  10 ms each. Without `all_ways` only what small databases need is loaded.
  """
  row_MD = database.embedding_MD
  for Q in (1, choice.FEW):
    query_Qd = np.ascontiguousarray(row_MD[:Q])
    rows = stored.rows(database, row_MD.shape[1], True, bounded=True)
    _little(query_Qd, rows, 1)
    if not all_ways:
      continue
    for level in (None, 1, 2, -1):
      _nearest(query_Qd, database, 1, True, level)
    nearest(query_Qd[:, :1], database, 1, cosine=True)
    rescore(query_Qd, database, np.zeros((Q, 1), int), 1, cosine=True)
    tiles.few(stored.queries(query_Qd), database.tile_NWT, rows, 1)


def rescore(
  query_Qd: np.ndarray,
  database: Any,
  ids_QK: np.ndarray,
  k: int,
  *,
  cosine: bool,
) -> Found:
  """The k best of the rows `ids_QK`, as `best.ranked`; like `nearest`."""
  dim, read = query_Qd.shape[1], None
  if not stored.is_at_hand(database):
    read = functools.partial(stored.read, database, dim=dim)
  rows = stored.rows(database, dim, cosine)
  queries = stored.queries(query_Qd)
  return best_lib.ranked(queries, rows, ids_QK, k, read)


def _little(query_Qd, rows, k) -> Found:
  """Multiplies all rows at once, where threads would only wait."""
  queries, Q = stored.queries(query_Qd), len(query_Qd)
  found = Found(
    np.empty((Q, k), np.int64), np.empty((Q, k), np.float32),
    len(rows.norm_B) * query_Qd.shape[1],
  )  # fmt: skip
  kernels.little(*queries, *rows[:-1], *found[:2])
  return found


def _nearest(query_Qd, database, k, cosine, level) -> Found:
  """`nearest` for a group of queries."""
  (Q, dim), M = query_Qd.shape, len(database.embedding_MD)
  queries, tile_NWT = stored.queries(query_Qd), database.tile_NWT
  if tile_NWT is not None and dim <= stored.TILE_DIMS:
    rows = stored.rows(database, dim, cosine)
    return tiles.in_tiles(queries, tile_NWT, rows, k)
  best = Search(queries, k, Q * M * dim)
  if not stored.is_at_hand(database):
    for rows in stored.blocks(database, dim, cosine, _ROWS * threads.count()):
      _multiply(best, rows, len(rows.level_L) - 1)
    return best.found(M * dim)
  rows = stored.rows(database, dim, cosine, bounded=True)
  last, chosen = len(rows.level_L) - 1, level
  if level is None:
    chosen = choice.level(queries, rows, k, tile_NWT)
  if chosen in (-1, last):
    return _in_full(queries, rows, k)
  if tile_NWT is not None:
    least_Q = tiles.seed(queries, tile_NWT, rows, k)
    best = Search(queries, k, Q * M * dim, least_Q)
  if chosen == 1 and tile_NWT is not None:
    tiles.scan(best, tile_NWT, rows, rows.level_L[1], 1)
  else:
    _multiply(best, rows, chosen)
  return best.found(M * rows.level_L[chosen])


def _in_full(queries, rows, k) -> Found:
  """Multiplies all rows in full by the BLAS, whose scores may be rounded apart.

  Scores that are as near as rounding is are computed once more, by the loop
  that all other ways use, so that equal rows tie. Where that may leave out one
  of the k best, as with many equal rows, every row in question is.
  """
  (Q, dim), M = queries.vector_Qd.shape, len(rows.norm_B)
  last, work = len(rows.level_L) - 1, Q * M * dim
  most = min(M, k + max(_SPARE, k // 8))
  ids_S = np.linspace(0, M - 1, min(M, _SAMPLE)).astype(int)
  row_Sd = rows.vector_BD[ids_S, :dim] / rows.norm_B[ids_S, None]
  least_Q = best_lib.estimate(queries.vector_Qd, row_Sd.T, most, M)
  multiply = functools.partial(_multiply, rows=rows, level=last, keep=True)
  kept = best_lib.scan(multiply, queries, most, work, least_Q)
  largest = (rows.size_B / rows.norm_B).max()
  margin_Q1 = scores.ROUNDING * queries.tail_QL[:, :1] * largest
  near_QK = np.zeros(kept.ids_QK.shape, bool)
  near_QK[:, 1:] = -np.diff(kept.score_QK, axis=1) <= margin_Q1
  near_QK[:, :-1] |= near_QK[:, 1:]
  found = Found(kept.ids_QK[:, :k], kept.score_QK[:, :k], M * dim)
  if near_QK.any():
    best = Search(queries, most, work, by_query=True)
    keys.add(kept.score_QK, kept.ids_QK, near_QK, best.parts[0])
    near_ids_QK = np.where(near_QK, kept.ids_QK, -1)
    best.run(
      lambda queries, best, share: scores.rank(
        queries, rows, near_ids_QK[share], near_ids_QK[share], best
      ),
      Q,
    )
    found = Found(*(x[:, :k] for x in best.found()[:2]), M * dim)
  if kept.ids_QK.shape[1] == M:
    return found
  unsure_Q = (kept.score_QK[:, -1:] + margin_Q1 >= found.score_QK[:, -1:])[:, 0]
  if unsure_Q.any():
    best = Search(stored.queries(queries.vector_Qd[unsure_Q]), k, work)
    _multiply(best, rows, last)
    for array, values in zip(found[:2], best.found()[:2], strict=True):
      array[unsure_Q] = values
  return found


def _multiply(best, rows, level, keep=False) -> None:
  """Multiplies rows up to a level by the BLAS, and sifts the products.

  With `keep` the products are taken as the scores.
  """
  width, tile = rows.level_L[level], kernels.TILE

  def work(queries, found, share):
    query_Qd = np.ascontiguousarray(queries.vector_Qd[:, :width])
    size = max(1, min(_ROWS, _PRODUCTS // len(query_Qd)) // tile) * tile
    stop = min(share.stop * tile, len(rows.norm_B))
    read, product_BQ = 0, np.empty((size, len(query_Qd)), np.float32)
    for begin in range(share.start * tile, stop, size):
      row_Bd = rows.vector_BD[begin : min(begin + size, stop), :width]
      part_BQ = np.matmul(row_Bd, query_Qd.T, out=product_BQ[: len(row_Bd)])
      read += kernels.sift(
        part_BQ, queries, rows, found, begin, 0 if keep else level
      )
    return read

  best.run(work, -(-len(rows.norm_B) // tile))
