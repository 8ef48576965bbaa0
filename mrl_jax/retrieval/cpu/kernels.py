"""Loops of the search on a CPU, compiled by Numba without the GIL.

The score of a row does not depend on its position, so that equal rows tie.
"""

from typing import NamedTuple

import numba
import numpy as np

# Rows scored, and dims summed, at a time: both stay in the L1 cache.
TILE, LANE = 512, 8
# Margin of a comparison by products instead of quotients, as a share.
_ROUNDING = np.float32(1e-6)
# The limit of scores that are no cosines.
UNLIMITED = np.float32(np.inf)


class Rows(NamedTuple):
  """Rows to score.

  Attributes:
    vector_BD: float32, read-only: one compiled function serves files as well.
    norm_B: float32 divisors of the scores.
    limit: scores are clipped to [-limit, limit], so that rounding takes no
      cosine beyond 1.
  """

  vector_BD: np.ndarray
  norm_B: np.ndarray
  limit: np.float32


class Hits(NamedTuple):
  """Rows that reached a threshold: query, row id and score of each."""

  query_N: np.ndarray
  id_N: np.ndarray
  score_N: np.ndarray


class Tails(NamedTuple):
  """Columns that `bounds` appends to prefixes (`width`) of queries and rows."""

  width: int
  query_QA: np.ndarray
  row_MA: np.ndarray


_options = {'nogil': True, 'cache': True, 'error_model': 'numpy'}
_loop = numba.njit(fastmath={'contract', 'nsz'}, **_options)
_sum = numba.njit(fastmath={'contract', 'nsz', 'reassoc'}, **_options)


@_loop
def scan_rows(query_Qd, rows, first, threshold_Q, hits, count):
  """Adds the rows whose score reaches a query's threshold to the hits.

  Queries are padded with zeros to a multiple of LANE; `first` is the id of the
  first row, `count` the number of hits so far. Thresholds are at most the
  limit. Returns (rows that were scored, count): fewer rows than given if the
  hits of another TILE might not fit.
  """
  rows_Bd, norm_B, limit = rows
  query_N, id_N, score_N = hits
  Q, B, dim = len(query_Qd), len(rows_Bd), rows_Bd.shape[1]
  rows_dT = np.zeros((query_Qd.shape[1], TILE), np.float32)
  norm_T = np.ones(TILE, np.float32)
  score_T = np.empty(TILE, np.float32)
  passes_T = np.empty(TILE, np.uint8)
  # Eight rows are looked at together.
  any_T8 = passes_T.view(np.uint64)
  for start in range(0, B, TILE):
    if count + Q * TILE > len(id_N):
      return start, count
    size = min(TILE, B - start)
    for t in range(size):
      norm_T[t] = norm_B[start + t]
      for i in range(dim):
        rows_dT[i, t] = rows_Bd[start + t, i]
    for q in range(Q):
      threshold = threshold_Q[q]
      least = threshold - abs(threshold) * _ROUNDING
      for i in range(0, query_Qd.shape[1], LANE):
        a, b = query_Qd[q, i], query_Qd[q, i + 1]
        c, d = query_Qd[q, i + 2], query_Qd[q, i + 3]
        e, f = query_Qd[q, i + 4], query_Qd[q, i + 5]
        g, h = query_Qd[q, i + 6], query_Qd[q, i + 7]
        for t in range(TILE):
          part = (
            (a * rows_dT[i, t] + b * rows_dT[i + 1, t])
            + (c * rows_dT[i + 2, t] + d * rows_dT[i + 3, t])
          ) + (
            (e * rows_dT[i + 4, t] + f * rows_dT[i + 5, t])
            + (g * rows_dT[i + 6, t] + h * rows_dT[i + 7, t])
          )
          score_T[t] = part if i == 0 else score_T[t] + part
      for t in range(TILE):
        passes_T[t] = score_T[t] >= least * norm_T[t]
      for w in range(TILE // 8):
        if any_T8[w]:
          for t in range(8 * w, min(8 * w + 8, size)):
            if not passes_T[t]:
              continue
            score = min(max(score_T[t] / norm_T[t], -limit), limit)
            if score >= threshold:
              query_N[count], id_N[count] = q, first + start + t
              score_N[count] = score
              count += 1
  return B, count


@_loop
def scan_scores(score_QB, threshold_Q, begin, first, size, hits, count):
  """Adds the scores that reach their threshold, from query `begin` on.

  The first `size` columns are rows, `first` is the id of the first. Returns
  (the query to go on with, count), as `scan_rows` does.
  """
  query_N, id_N, score_N = hits
  Q, B = len(threshold_Q), score_QB.shape[1]
  passes_B = np.zeros((B + 7) // 8 * 8, np.uint8)
  any_B8 = passes_B.view(np.uint64)
  for q in range(begin, Q):
    if count + B > len(id_N):
      return q, count
    threshold = threshold_Q[q]
    for b in range(B):
      passes_B[b] = score_QB[q, b] >= threshold
    for w in range(len(any_B8)):
      if any_B8[w]:
        for b in range(8 * w, min(8 * w + 8, size)):
          if passes_B[b]:
            query_N[count], id_N[count] = q, first + b
            score_N[count] = score_QB[q, b]
            count += 1
  return Q, count


@_loop
def group(hits, Q):
  """Sort keys [N] of hits, grouped by query; where each group begins [Q + 1].

  Keys increase as the score falls, and with the id where scores are equal.
  """
  query_N, id_N, score_N = hits
  begin = np.zeros(Q + 1, np.int64)
  for query in query_N:
    begin[query + 1] += 1
  for q in range(Q):
    begin[q + 1] += begin[q]
  bits_N = score_N.view(np.uint32)
  place_Q, key_N = begin[:-1].copy(), np.empty(len(id_N), np.uint64)
  for n in range(len(id_N)):
    key_N[place_Q[query_N[n]]] = _key(bits_N[n], id_N[n])
    place_Q[query_N[n]] += 1
  return key_N, begin


@_loop
def _key(bits, row):
  if bits == np.uint32(0x80000000):
    bits = np.uint32(0)  # -0 and 0 are equal.
  # The bits of negative floats fall already while the floats rise.
  if not bits >> np.uint32(31):
    bits = ~bits & np.uint32(0x7FFFFFFF)
  return (np.uint64(bits) << np.uint64(32)) | np.uint64(row)


@_sum
def best_dots(query_Qd, rows, tails, ids_QK, bound_QK, k, score_QK):
  """Scores the rows that may be among the k best of each query.

  `ids_QK` are in the order of falling bounds, with -1 behind the last. Reading
  stops once k scores exceed the next bound; a row whose bound at the wider
  prefix of `tails` falls short is not read beyond that. Such rows get -inf in
  `score_QK`, which is written to. Returns the number of multiply-adds.
  """
  rows_MD, norm_M, limit = rows
  width, tail_QA, tail_MA = tails
  dim, products = query_Qd.shape[1], 0
  for query in range(len(query_Qd)):
    heap_k = np.full(k, -np.inf, np.float32)  # The least at the top.
    score_QK[query] = -np.inf
    for j in range(ids_QK.shape[1]):
      row = ids_QK[query, j]
      if row < 0 or bound_QK[query, j] < heap_k[0]:
        break
      total = np.float32(0)
      for i in range(width):
        total += query_Qd[query, i] * rows_MD[row, i]
      products += width
      bound = total
      for a in range(tail_QA.shape[1]):
        bound += tail_QA[query, a] * tail_MA[row, a]
      if bound / norm_M[row] < heap_k[0]:
        continue
      for i in range(width, dim):
        total += query_Qd[query, i] * rows_MD[row, i]
      products += dim - width
      score = min(max(total / norm_M[row], -limit), limit)
      score_QK[query, j] = score
      if score > heap_k[0]:
        _replace_top(heap_k, score)
  return products


@_loop
def _replace_top(heap_k, value):
  place = 0
  while True:
    child = 2 * place + 1
    if child + 1 < len(heap_k) and heap_k[child + 1] < heap_k[child]:
      child += 1
    if child >= len(heap_k) or heap_k[child] >= value:
      break
    heap_k[place] = heap_k[child]
    place = child
  heap_k[place] = value


@_sum
def dots(query_Qd, rows_MD, ids_QK, dot_QK):
  """Writes the dot products of queries and their rows; -inf for an id of -1."""
  dim = query_Qd.shape[1]
  for query in range(len(query_Qd)):
    for k in range(ids_QK.shape[1]):
      row = ids_QK[query, k]
      total = np.float32(0)
      if row >= 0:
        for i in range(dim):
          total += query_Qd[query, i] * rows_MD[row, i]
      dot_QK[query, k] = total if row >= 0 else -np.inf
