"""Loops that multiply all rows by one query."""

import numpy as np

from mrl_jax.retrieval.cpu.arguments import LANE
from mrl_jax.retrieval.cpu.arguments import TILE
from mrl_jax.retrieval.cpu.compiled import loop
from mrl_jax.retrieval.cpu.compiled import sums


@loop
def multiply(tile_NWT, query_D, start, end, product_NT):
  """Adds the products of some dims of all tiles, a multiple of LANE."""
  score_T = np.empty(TILE, np.float32)
  for n in range(len(tile_NWT)):
    for t in range(TILE):
      score_T[t] = product_NT[n, t]
    for i in range(start, end, LANE):
      q0, q1 = query_D[i], query_D[i + 1]
      q2, q3 = query_D[i + 2], query_D[i + 3]
      j = i + 4
      q4, q5 = query_D[j], query_D[j + 1]
      q6, q7 = query_D[j + 2], query_D[j + 3]
      for t in range(TILE):
        score_T[t] += (
          (q0 * tile_NWT[n, i, t] + q1 * tile_NWT[n, i + 1, t])
          + (q2 * tile_NWT[n, i + 2, t] + q3 * tile_NWT[n, i + 3, t])
        ) + (
          (q4 * tile_NWT[n, j, t] + q5 * tile_NWT[n, j + 1, t])
          + (q6 * tile_NWT[n, j + 2, t] + q7 * tile_NWT[n, j + 3, t])
        )
    for t in range(TILE):
      product_NT[n, t] = score_T[t]


@sums
def in_full(query_D, rows, begin, product_B):
  """Writes products of the rows from `begin` on, summed without levels."""
  end = np.uintp(rows.level_L[-1])
  for b in range(len(product_B)):
    row_D, total = rows.vector_BD[begin + b], np.float32(0)
    for i in range(np.uintp(0), end):
      total += query_D[i] * row_D[i]
    product_B[b] = total
