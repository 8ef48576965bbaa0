"""Scores of rows in full.

The score of a row depends neither on its position nor on the other queries, so
that equal rows tie whichever way a search takes.
"""

import numpy as np

from mrl_jax.retrieval.cpu import keys
from mrl_jax.retrieval.cpu.arguments import Best
from mrl_jax.retrieval.cpu.compiled import loop
from mrl_jax.retrieval.cpu.compiled import sums

# Rounding error of a float32 dot product, as a share of the product of norms.
ROUNDING = np.float32(1e-5)


@sums
def _dot(x_ND, n, y_ND, m, start, end):
  """The product of two rows between these dims, all of which are unsigned."""
  total = np.float32(0)
  for i in range(start, end):
    total += x_ND[n, i] * y_ND[m, i]
  return total


@sums
def finish(queries, rows, best, q, b, place, row, level):
  """Scores row b in full unless a bound at a level is below what is needed.

  `place` is that of its vector, `row` its id. Returns the multiply-adds beyond
  the given level, up to which the caller has paid.
  """
  # Unsigned indices are not looked at whether they count from the end.
  q, b, place = np.uintp(q), np.uintp(b), np.uintp(place)
  least, norm = best.least_Q[q], rows.norm_B[b]
  needed = least * norm - ROUNDING * queries.tail_QL[q, 0] * rows.size_B[b]
  total, start, read = np.float32(0), np.uintp(0), 0
  bounded = rows.tail_LB.shape[1] > 0
  for i in range(1, len(rows.level_L)):
    end = np.uintp(rows.level_L[i])
    total += _dot(queries.vector_Qd, q, rows.vector_BD, place, start, end)
    if i > level:
      read += rows.level_L[i] - rows.level_L[i - 1]
    start = end
    if bounded and total + queries.tail_QL[q, i] * rows.tail_LB[i, b] < needed:
      return read
  score = min(max(total / norm, -rows.limit), rows.limit)
  if score >= least:
    keys.push(best, q, score, row)
  return read


@sums
def _products(queries, rows, place_K, query, total_K):
  """Writes the products of a query and some rows, summed as in `finish`."""
  q = np.uintp(query)
  for j in range(len(place_K)):
    total, place = np.float32(0), np.uintp(max(place_K[j], 0))
    for i in range(1, len(rows.level_L)):
      start, end = np.uintp(rows.level_L[i - 1]), np.uintp(rows.level_L[i])
      total += _dot(queries.vector_Qd, q, rows.vector_BD, place, start, end)
    total_K[j] = total


@loop
def rank(queries, rows, place_QK, ids_QK, best):
  """Scores the rows `ids_QK` of each query, -1 for none.

  `place_QK` says where in `rows.vector_BD` each lies.
  """
  read, total_K = 0, np.empty(ids_QK.shape[1], np.float32)
  if rows.tail_LB.shape[1]:
    for q in range(len(ids_QK)):
      for j in range(len(total_K)):
        row = ids_QK[q, j]
        if row >= 0:
          read += finish(queries, rows, best, q, row, place_QK[q, j], row, 0)
    return read
  # Rows that nothing bounds are fetched while others are multiplied.
  for q in range(len(ids_QK)):
    _products(queries, rows, place_QK[q], q, total_K)
    for j in range(len(total_K)):
      row = ids_QK[q, j]
      if row >= 0:
        read += rows.level_L[-1]
        score = total_K[j] / rows.norm_B[row]
        score = min(max(score, -rows.limit), rows.limit)
        if score >= best.least_Q[q]:
          keys.push(best, q, score, row)
  return read


@loop
def ranked(queries, rows, place_QK, ids_QK, spare, best_ids_QK, score_QK):
  """Writes the best of the rows `ids_QK`, see `rank`; the multiply-adds."""
  Q, k = best_ids_QK.shape
  key_QC, least_Q = (
    np.full((Q, k + spare), keys.NO_ROW),
    np.empty(Q, np.float32),
  )
  least_Q[:] = -np.inf
  best = Best(key_QC, np.zeros(Q, np.int64), least_Q, k)
  read = rank(queries, rows, place_QK, ids_QK, best)
  keys.unpack(key_QC, best_ids_QK, score_QK)
  return read
