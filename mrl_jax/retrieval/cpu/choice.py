"""Chooses the width up to which all rows are multiplied in a search.

The constants were read off once from the times of every way to search, which
`python -m benchmarks.retrieval --spectrum=1,0.5,0 --queries=200,1` prints. What
a sample of rows says of the bounds is measured in each search.
"""

import math

import numpy as np

from mrl_jax.retrieval.cpu.stored import Queries
from mrl_jax.retrieval.cpu.stored import Rows

# Nanoseconds on two cores of an AMD EPYC (Zen 3): of a multiply-add by the BLAS
# and at least of a number that it reads; of a multiply-add in tiles; of a
# comparison with a threshold; of fetching a row, and of a multiply-add then.
BLAS, READ, TILES, COMPARE, FETCH, ADD = 0.015, 0.18, 0.035, 0.15, 150, 0.6
# Queries and rows that are tried; fewer queries, and fewer rows, are too few.
_QUERIES, _ROWS, FEW = 16, 512, 5
# Multiply-adds that one loop does at once, and rows that the BLAS multiplies.
LITTLE, _FEW_ROWS = 1 << 24, 4096


def level(
  queries: Queries,
  rows: Rows,
  k: int,
  has_tiles: bool,
  least_Q: np.ndarray | None = None,
) -> int:
  """The number of the level; the last: all rows are multiplied in full."""
  last = len(rows.level_L) - 1
  if len(queries.vector_Qd) < FEW:
    return 1
  if len(rows.norm_B) < _FEW_ROWS or last == 1:
    return last
  costs = expected(queries, rows, k, has_tiles, least_Q)
  return min(costs, key=costs.__getitem__)


def expected(queries, rows, k, has_tiles, least_Q=None) -> dict[int, float]:
  """Nanoseconds that a search is expected to take, by level."""
  Q, M = len(queries.vector_Qd), len(rows.norm_B)
  level_L = rows.level_L.tolist()
  last = len(level_L) - 1
  share_L = _shares(queries, rows, k, least_Q)
  costs = {}
  for i in range(1, last + 1):
    each = max(BLAS * Q, READ)
    if i == 1 and has_tiles:
      each = TILES * Q
    cost = level_L[i] * each + COMPARE * Q
    cost += Q * share_L[i] * (FETCH + ADD * level_L[i])
    for j in range(i, last):
      cost += Q * share_L[j] * ADD * (level_L[j + 1] - level_L[j])
    costs[i] = M * cost
  return costs


def _shares(queries, rows, k, least_Q) -> np.ndarray:
  """The share of rows that cannot be ruled out at each level."""
  M, last = len(rows.norm_B), len(rows.level_L) - 1
  tried = np.linspace(0, len(queries.vector_Qd) - 1, _QUERIES).astype(int)
  tried, ids_R = np.unique(tried), np.linspace(0, M - 1, _ROWS).astype(int)
  query_Td, tail_TL = queries.vector_Qd[tried], queries.tail_QL[tried]
  row_RD, norm_R = rows.vector_BD[ids_R], rows.norm_B[ids_R]
  product_TR, bounds = 0, []
  for i, (start, end) in enumerate(
    zip(rows.level_L, rows.level_L[1:], strict=False), 1
  ):
    product_TR = product_TR + query_Td[:, start:end] @ row_RD[:, start:end].T
    tail_R = rows.tail_LB[i, ids_R]
    bounds.append((product_TR + tail_TL[:, i, None] * tail_R) / norm_R)
  if least_Q is None:
    rank = min(_ROWS, math.ceil(k * _ROWS / M))
    least_T = np.partition(bounds[-1], -rank, axis=1)[:, -rank]
  else:
    least_T = least_Q[tried]
  share_L = np.ones(last + 1)
  for i, bound_TR in enumerate(bounds, 1):
    share_L[i] = (bound_TR >= least_T[:, None]).mean()
  # Those that are among the best for a while.
  share_L[last] = 2 * k / M
  return np.maximum(share_L, share_L[last])
