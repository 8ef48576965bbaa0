"""Loops over all rows. Queries, rows and best are those of `arguments`."""

import numpy as np

from mrl_jax.retrieval.cpu import keys
from mrl_jax.retrieval.cpu import scores
from mrl_jax.retrieval.cpu.arguments import Best
from mrl_jax.retrieval.cpu.arguments import LANE
from mrl_jax.retrieval.cpu.arguments import Queries
from mrl_jax.retrieval.cpu.arguments import Rows
from mrl_jax.retrieval.cpu.arguments import TILE
from mrl_jax.retrieval.cpu.compiled import loop
from mrl_jax.retrieval.cpu.compiled import sums

# Error of a comparison by products in place of quotients, as a share.
_QUOTIENT = np.float32(1e-6)


@loop
def sift(product_BQ, queries, rows, best, begin, level):
  """Keeps the rows that may be among the best, by products up to a level.

  The products are those of the rows from `begin` on. With level 0 they are the
  scores; otherwise rows that are not ruled out are scored anew. Returns the
  multiply-adds beyond the level.
  """
  B, Q = product_BQ.shape
  passes_Q, read = np.zeros((Q + 7) // 8 * 8, np.uint8), 0
  # Eight queries are looked at together.
  any_Q8 = passes_Q.view(np.uint64)
  tail_Q = queries.tail_QL[:, level].copy()
  rounding_Q = scores.ROUNDING * queries.tail_QL[:, 0]
  least_Q, bounded = best.least_Q, level > 0 and rows.tail_LB.shape[1] > 0
  for i in range(B):
    b, product_Q = begin + i, product_BQ[i]
    norm, size = rows.norm_B[b], rows.size_B[b]
    tail = rows.tail_LB[level, b] if bounded else np.float32(0)
    for q in range(Q):
      most = product_Q[q] + tail_Q[q] * tail + rounding_Q[q] * size
      passes_Q[q] = most >= least_Q[q] * norm
    for w in range(len(any_Q8)):
      if not any_Q8[w]:
        continue
      for q in range(8 * w, min(8 * w + 8, Q)):
        if not passes_Q[q]:
          continue
        if level:
          read += scores.finish(
            queries, rows, best, q, b, b, rows.first + b, level
          )
        else:
          score = min(max(product_Q[q] / norm, -rows.limit), rows.limit)
          if score >= least_Q[q]:
            keys.push(best, q, score, rows.first + b)
  return read


@loop
def scan_tiles(tile_NWT, places, width, queries, rows, best, level):
  """Scores the rows of some tiles by their first `width` numbers.

  `places`: the first tile, the one behind the last, and the step. Products and
  level are those of `sift`. Queries are padded with zeros to a multiple of
  LANE. Returns the multiply-adds beyond the level.
  """
  # One loop over arrays of its own: calls for its steps take three times as
  # long, since LLVM then asks whether they overlap.
  rows_dT, score_T = (
    np.empty((width, TILE), np.float32),
    np.empty(TILE, np.float32),
  )
  norm_T, size_T = np.ones(TILE, np.float32), np.zeros(TILE, np.float32)
  tail_T, passes_T = np.zeros(TILE, np.float32), np.zeros(TILE, np.uint8)
  # Eight rows are looked at together.
  any_T8 = passes_T.view(np.uint64)
  query_Qd, least_Q, read = queries.vector_Qd, best.least_Q, 0
  bounded = level > 0 and rows.tail_LB.shape[1] > 0
  for n in range(places[0], places[1], places[2]):
    begin = n * TILE
    size = min(TILE, len(rows.norm_B) - begin)
    for t in range(size):
      norm_T[t], size_T[t] = rows.norm_B[begin + t], rows.size_B[begin + t]
      if bounded:
        tail_T[t] = rows.tail_LB[level, begin + t]
    rows_WT = tile_NWT[n]
    if len(query_Qd) > 1:
      for i in range(width):
        for t in range(TILE):
          rows_dT[i, t] = tile_NWT[n, i, t]
      rows_WT = rows_dT
    for q in range(len(query_Qd)):
      for i in range(0, width, LANE):
        q0, q1 = query_Qd[q, i], query_Qd[q, i + 1]
        q2, q3 = query_Qd[q, i + 2], query_Qd[q, i + 3]
        q4, q5 = query_Qd[q, i + 4], query_Qd[q, i + 5]
        q6, q7 = query_Qd[q, i + 6], query_Qd[q, i + 7]
        for t in range(TILE):
          part = (
            (q0 * rows_WT[i, t] + q1 * rows_WT[i + 1, t])
            + (q2 * rows_WT[i + 2, t] + q3 * rows_WT[i + 3, t])
          ) + (
            (q4 * rows_WT[i + 4, t] + q5 * rows_WT[i + 5, t])
            + (q6 * rows_WT[i + 6, t] + q7 * rows_WT[i + 7, t])
          )
          score_T[t] = part if i == 0 else score_T[t] + part
      least = least_Q[q]
      if level:
        tail = queries.tail_QL[q, level]
        rounding = scores.ROUNDING * queries.tail_QL[q, 0]
        for t in range(TILE):
          most = score_T[t] + tail * tail_T[t] + rounding * size_T[t]
          passes_T[t] = most >= least * norm_T[t]
      else:
        needed = least - abs(least) * _QUOTIENT
        for t in range(TILE):
          passes_T[t] = score_T[t] >= needed * norm_T[t]
      for w in range(TILE // 8):
        if not any_T8[w]:
          continue
        for t in range(8 * w, min(8 * w + 8, size)):
          if not passes_T[t]:
            continue
          b = begin + t
          if level:
            read += scores.finish(
              queries, rows, best, q, b, b, rows.first + b, level
            )
          else:
            score = min(max(score_T[t] / norm_T[t], -rows.limit), rows.limit)
            if score >= least_Q[q]:
              keys.push(best, q, score, rows.first + b)
  return read


@loop
def _near(product_M, norm_B, limit, k):
  """The keys of the k best rows by their products, in any order."""
  M, count, least = len(product_M), 0, np.float32(-np.inf)
  key_C = np.empty(2 * k + 64, np.uint64)
  passes_T = np.zeros(TILE, np.uint8)
  any_T8 = passes_T.view(np.uint64)
  for start in range(0, M, TILE):
    size = min(TILE, M - start)
    product_T, norm_T = product_M[start:], norm_B[start:]
    needed = least - abs(least) * _QUOTIENT
    for t in range(size):
      passes_T[t] = product_T[t] >= needed * norm_T[t]
    for w in range((size + 7) // 8):
      if not any_T8[w]:
        continue
      for t in range(8 * w, min(8 * w + 8, size)):
        if not passes_T[t]:
          continue
        score = min(max(product_T[t] / norm_T[t], -limit), limit)
        if score >= least:
          key_C[count] = keys.make(score, start + t)
          count += 1
          if count == len(key_C):
            least, count = max(least, keys.cut(key_C, k)), k
  keys.select(key_C[:count], k)
  return key_C[:k]


@loop
def narrow(product_M, norm_B, limit, ids_1K, score_1K):
  """Writes the best rows of one query, whose products are its scores."""
  key_K = _near(product_M, norm_B, limit, ids_1K.shape[1])
  keys.unpack(key_K.reshape(1, -1), ids_1K, score_1K)


@loop
def seed(product_M, queries, rows, best, q):
  """Raises what rows must score to what the k-th of those near a query does.

  The products of all rows say which are near: the 2 * k best by them are scored
  in full. Returns the multiply-adds.
  """
  read, near = 0, min(2 * best.k, len(product_M))
  for key in _near(product_M, rows.norm_B, rows.limit, near):
    b = np.int64(key & np.uint64(0xFFFFFFFF))
    read += scores.finish(queries, rows, best, q, b, b, b, 0)
  count = best.count_Q[q]
  if count >= best.k:
    least = keys.cut(best.key_QC[q, :count], best.k)
    best.least_Q[q] = max(best.least_Q[q], least)
  best.count_Q[q] = 0
  return read


@loop
def left(product_M, queries, rows, best, q, level):
  """The rows whose bound reaches what is needed, by products up to a level."""
  M, count = len(product_M), 0
  id_C = np.empty(M, np.int64)
  tail, tail_B = queries.tail_QL[q, level], rows.tail_LB[level]
  least, rounding = best.least_Q[q], scores.ROUNDING * queries.tail_QL[q, 0]
  passes_T = np.zeros(TILE, np.uint8)
  any_T8 = passes_T.view(np.uint64)
  for start in range(0, M, TILE):
    size = min(TILE, M - start)
    product_T, norm_T = product_M[start:], rows.norm_B[start:]
    tail_T, size_T = tail_B[start:], rows.size_B[start:]
    for t in range(size):
      most = product_T[t] + tail * tail_T[t] + rounding * size_T[t]
      passes_T[t] = most >= least * norm_T[t]
    for w in range((size + 7) // 8):
      if any_T8[w]:
        for t in range(8 * w, min(8 * w + 8, size)):
          id_C[count] = start + t
          count += passes_T[t]
  return id_C[:count]


@loop
def finish(id_C, queries, rows, best, q):
  """Scores rows in full unless a bound rules them out; the multiply-adds."""
  read = 0
  for row in id_C:
    read += scores.finish(queries, rows, best, q, row, row, row, 0)
  return read


@loop
def little(
  query_Qd, tail_QL, vector_BD, norm_B, size_B, tail_LB, level_L, limit,
  ids_QK, score_QK,
):  # fmt: skip
  """Finds the best rows of each query by products of all rows in full.

  It takes the fields of `Queries` and `Rows` one by one, since a tuple of them
  takes Python several times as long to hand over.
  """
  (Q, k), M = ids_QK.shape, len(norm_B)
  queries = Queries(query_Qd, tail_QL)
  rows = Rows(vector_BD, norm_B, size_B, tail_LB, level_L, limit, 0)
  key_QC, least_Q = (
    np.full((Q, 2 * k + 64), keys.NO_ROW),
    np.empty(Q, np.float32),
  )
  best = Best(key_QC, np.zeros(Q, np.int64), least_Q, k)
  product_QM = np.empty((Q, M), np.float32)
  _all_products(query_Qd, vector_BD, product_QM)
  for q in range(Q):
    least_Q[q] = -np.inf
    if 4 * k < M:
      seed(product_QM[q], queries, rows, best, q)
    id_C = left(product_QM[q], queries, rows, best, q, len(level_L) - 1)
    finish(id_C, queries, rows, best, q)
  keys.unpack(key_QC, ids_QK, score_QK)


@sums
def _all_products(query_Qd, vector_BD, product_QM):
  """Writes the products of all queries and rows, summed without levels."""
  Q, M = product_QM.shape
  dim = np.uintp(query_Qd.shape[1])
  for b in range(M):
    row_D = vector_BD[b]
    for q in range(0, Q - 3, 4):
      x_d, y_d, z_d, w_d = (
        query_Qd[q], query_Qd[q + 1], query_Qd[q + 2], query_Qd[q + 3],
      )  # fmt: skip
      x, y, z, w = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
      for i in range(np.uintp(0), dim):
        x += x_d[i] * row_D[i]
        y += y_d[i] * row_D[i]
        z += z_d[i] * row_D[i]
        w += w_d[i] * row_D[i]
      product_QM[q, b], product_QM[q + 1, b] = x, y
      product_QM[q + 2, b], product_QM[q + 3, b] = z, w
    for q in range(Q // 4 * 4, Q):
      x_d, x = query_Qd[q], np.float32(0)
      for i in range(np.uintp(0), dim):
        x += x_d[i] * row_D[i]
      product_QM[q, b] = x
