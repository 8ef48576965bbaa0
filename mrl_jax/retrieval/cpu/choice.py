"""Chooses the width up to which all rows are multiplied in a search.

Each way to search is expected to take so many operations of a few kinds, which
follow from a sample of queries and rows. What an operation takes was read off
the times of all ways, to which `python -m benchmarks.retrieval --fit
--spectrum=1,0.5,0 --queries=200,16` fits it.
"""

import math

import numpy as np

from mrl_jax.retrieval.cpu import tiles
from mrl_jax.retrieval.cpu.arguments import Queries
from mrl_jax.retrieval.cpu.arguments import Rows

# Nanoseconds on two cores of an AMD EPYC (Zen 3), see `counts`.
OPERATIONS = 'multiply', 'multiply in tiles', 'compare', 'fetch a row', 'add'
NANOSECONDS = np.array([0.016, 0.04, 0.3, 80, 0.15])
# Reading a number takes as long as so many multiplications by the BLAS.
_READ = 12
# Queries and rows tried.
_QUERIES, _ROWS = 4, 512
# Fewer queries are searched one by one.
FEW = 5
# Multiply-adds that one loop does at once, and rows that the BLAS multiplies.
LITTLE, _FEW_ROWS = 1 << 24, 4096


def level(
  queries: Queries, rows: Rows, k: int, tile_NWT: np.ndarray | None
) -> int:
  """The number of the level; the last: all rows are multiplied in full."""
  M, last = len(rows.norm_B), len(rows.level_L) - 1
  if M < _FEW_ROWS or last == 1 or 8 * k > M:
    return last
  costs = counts(queries, rows, k, tile_NWT) @ NANOSECONDS
  return int(np.argmin(costs)) + 1


def counts(queries, rows, k, tile_NWT) -> np.ndarray:
  """Operations that a search is expected to take, [level - 1, OPERATIONS]."""
  Q, M = len(queries.vector_Qd), len(rows.norm_B)
  level_L, last = rows.level_L.tolist(), len(rows.level_L) - 1
  left_L = Q * M * _shares(queries, rows, k, tile_NWT)
  count_LO = np.zeros((last, len(OPERATIONS)))
  for i, count_O in enumerate(count_LO, 1):
    in_tiles = i == 1 and tile_NWT is not None
    if in_tiles:
      count_O[1] = Q * M * level_L[1]
    else:
      count_O[0], count_O[3] = max(Q, _READ) * M * level_L[i], M
    count_O[2] = Q * M
    count_O[3] += left_L[i]
    count_O[4] = left_L[i] * level_L[i]
    for j in range(i, last):
      count_O[4] += left_L[j] * (level_L[j + 1] - level_L[j])
    if i < last and tile_NWT is not None:  # The seeds.
      count_O[1:] += np.array([M * level_L[1] / 2, M / 2, 2 * k, 0]) * Q
      count_O[4] += 2 * k * Q * level_L[-1]
  return count_LO


def _shares(queries, rows, k, tile_NWT) -> np.ndarray:
  """The share of rows that cannot be ruled out at each level."""
  M, last = len(rows.norm_B), len(rows.level_L) - 1
  Q = len(queries.vector_Qd)
  tried = np.linspace(0, Q - 1, _QUERIES).astype(int)
  tried, ids_R = np.unique(tried), np.linspace(0, M - 1, _ROWS).astype(int)
  some = Queries(*(x[tried] for x in queries))
  row_RD, norm_R = rows.vector_BD[ids_R], rows.norm_B[ids_R]
  product_TR, bounds = 0, []
  for i, (start, end) in enumerate(
    zip(rows.level_L, rows.level_L[1:], strict=False), 1
  ):
    product_TR = (
      product_TR + some.vector_Qd[:, start:end] @ row_RD[:, start:end].T
    )
    tail_R = rows.tail_LB[i, ids_R]
    bounds.append((product_TR + some.tail_QL[:, i, None] * tail_R) / norm_R)
  if tile_NWT is None:
    rank = min(_ROWS, math.ceil(k * _ROWS / M))
    least_T = np.partition(bounds[-1], -rank, axis=1)[:, -rank]
  else:
    least_T = tiles.nearby(some, tile_NWT, rows, k)
  share_L = np.ones(last + 1)
  for i, bound_TR in enumerate(bounds, 1):
    share_L[i] = (bound_TR >= least_T[:, None]).mean()
  # Those that are among the best for a while.
  share_L[last] = 2 * k / M
  return np.maximum(share_L, share_L[last])
