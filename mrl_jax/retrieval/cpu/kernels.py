"""The loops of search on a CPU, compiled by Numba; they let other threads run.

A row's score does not depend on where the row stands, so that equal rows tie.
Candidates are three arrays, query_N, id_N and score_N, filled up to a count.
"""

import numba
import numpy as np

# Rows scored, and dims summed, at a time: both stay in the first cache.
TILE, LANE = 512, 8
# A product with the norm may fall short of a quotient's rounding by less.
_ROUNDING = np.float32(1e-6)

_options = {'nogil': True, 'cache': True, 'error_model': 'numpy'}
_loop = numba.njit(fastmath={'contract', 'nsz'}, **_options)
_sum = numba.njit(fastmath={'contract', 'nsz', 'reassoc'}, **_options)


@_loop
def scan_rows(
  query_Qd, rows_Bd, norm_B, most, floor_Q, first, query_N, id_N, score_N, count
):
  """Adds the rows whose score / norm reaches a query's floor.

  Queries are padded with zeros to a multiple of LANE; `first` is the id of the
  first row; scores are cut to [-most, most], so that no cosine is beyond 1 by
  rounding. Floors are at most `most`. Returns (rows that were scored, count):
  fewer than there are if the arrays might not hold those of another TILE.
  """
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
      floor = floor_Q[q]
      least = floor - abs(floor) * _ROUNDING
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
            score = min(max(score_T[t] / norm_T[t], -most), most)
            if score >= floor:
              query_N[count], id_N[count] = q, first + start + t
              score_N[count] = score
              count += 1
  return B, count


@_loop
def scan_scores(
  score_QB, floor_Q, begin, first, size, query_N, id_N, score_N, count
):
  """Adds the scores that reach their floor, from query `begin` on.

  The first `size` columns are rows, `first` the id of the first. Returns
  (queries that were looked at, count), as `scan_rows` does.
  """
  Q, B = len(floor_Q), score_QB.shape[1]
  passes_B = np.zeros((B + 7) // 8 * 8, np.uint8)
  any_B8 = passes_B.view(np.uint64)
  for q in range(begin, Q):
    if count + B > len(id_N):
      return q, count
    floor = floor_Q[q]
    for b in range(B):
      passes_B[b] = score_QB[q, b] >= floor
    for w in range(len(any_B8)):
      if any_B8[w]:
        for b in range(8 * w, min(8 * w + 8, size)):
          if passes_B[b]:
            query_N[count], id_N[count] = q, first + b
            score_N[count] = score_QB[q, b]
            count += 1
  return Q, count


@_loop
def group(query_N, id_N, score_N, Q):
  """(keys [N] by query, where each query's begin [Q + 1]).

  Keys increase as the score falls, and among equal ones by the id.
  """
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
  # Bits of floats below 0 fall as these rise already.
  if not bits >> np.uint32(31):
    bits = ~bits & np.uint32(0x7FFFFFFF)
  return (np.uint64(bits) << np.uint64(32)) | np.uint64(row)


@_sum
def best_dots(
  query_Qd,
  rows_MD,
  norm_M,
  most_score,
  more_QA,
  more_MA,
  ids_QK,
  bound_QK,
  width,
  k,
  q,
  end,
  score_QK,
):
  """Writes the scores of the rows that may be among the k best of a query.

  Scores are cut as in `scan_rows`. Rows come by falling bounds, and -1 behind
  the last. A row whose bound at
  `width`, of the product of `more` and of prefixes, falls short too is not read
  to the end, nor are those after the k-th best score has passed their bound;
  they get -inf. Returns the multiply-adds.
  """
  dim, products = query_Qd.shape[1], 0
  for query in range(q, end):
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
      most = total
      for a in range(more_QA.shape[1]):
        most += more_QA[query, a] * more_MA[row, a]
      if most / norm_M[row] < heap_k[0]:
        continue
      for i in range(width, dim):
        total += query_Qd[query, i] * rows_MD[row, i]
      products += dim - width
      score = min(max(total / norm_M[row], -most_score), most_score)
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
def dots(query_Qd, rows_MD, ids_QK, q, end, dot_QK):
  """Writes those of the queries q to end; -inf for an id below 0."""
  dim = query_Qd.shape[1]
  for query in range(q, end):
    for k in range(ids_QK.shape[1]):
      row = ids_QK[query, k]
      total = np.float32(0)
      if row >= 0:
        for i in range(dim):
          total += query_Qd[query, i] * rows_MD[row, i]
      dot_QK[query, k] = total if row >= 0 else -np.inf
