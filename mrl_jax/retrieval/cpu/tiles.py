"""Searches by the first dims of all rows, in tiles, and shortlists of them."""

import numpy as np

from mrl_jax.retrieval.cpu import best as best_lib
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu import stored
from mrl_jax.retrieval.cpu.best import Found
from mrl_jax.retrieval.cpu.best import Search

# One in so many tiles is looked at for a shortlist that yields thresholds.
_STEP = 2
# What rounding may take from a score, as a share of the norms.
_ROUNDING = np.float32(1e-5)


def in_tiles(queries, tile_NWT, rows, k, step=1) -> Found:
  """The best rows by as many dims as tiles have, or fewer.

  With a step, only one in so many tiles is looked at.
  """
  (Q, width), M = queries.vector_Qd.shape, len(rows.norm_B)
  padded_Qd = np.pad(queries.vector_Qd, ((0, 0), (0, -width % kernels.LANE)))
  queries = queries._replace(vector_Qd=stored.read_only(padded_Qd))
  best = Search(queries, k, Q * M * width // step)
  scan(best, tile_NWT, rows, padded_Qd.shape[1], 0, step)
  return best.found(M * width)


def few(queries, tile_NWT, rows, k) -> Found:
  """The best rows of few queries: tiles are multiplied once, for all steps."""
  Q, M = len(queries.vector_Qd), len(rows.norm_B)
  width, tile = rows.level_L[1], kernels.TILE
  product_MQ = np.empty((M, Q), np.float32)

  def multiply(queries, found, share):
    kernels.multiply_tiles(
      tile_NWT, share.start, share.stop, width, queries, product_MQ
    )
    return sift(queries, found, share, 0)

  def sift(queries, found, share, level=1):
    part_BQ = product_MQ[share.start * tile : share.stop * tile]
    return kernels.sift(
      part_BQ, queries, rows, found, share.start * tile, level
    )

  search = Search(queries, 2 * k, Q * M * width)
  search.run(multiply, len(tile_NWT))
  least_Q = _least(queries, rows, search.found().ids_QK, k)
  search = Search(queries, k, Q * M * width, least_Q)
  search.run(sift, len(tile_NWT))
  return search.found(M * width)


def scan(best, tile_NWT, rows, width, level, step=1) -> None:
  best.run(
    lambda queries, found, share: kernels.scan_tiles(
      tile_NWT, (share.start * step, share.stop * step, step), width, queries,
      rows, found, level,
    ),
    len(tile_NWT) // step,
  )  # fmt: skip


def seed(queries, tile_NWT, rows, k) -> np.ndarray:
  """What the k-th best row of each query scores at least."""
  cut = queries._replace(
    vector_Qd=np.ascontiguousarray(queries.vector_Qd[:, : rows.level_L[1]])
  )
  ids_QK = in_tiles(cut, tile_NWT, rows, 2 * k, _STEP).ids_QK
  return _least(queries, rows, ids_QK, k)


def _least(queries, rows, ids_QK, k) -> np.ndarray:
  """What the k-th best of these rows scores, or slightly less."""
  least_Q = ranked(queries, rows, ids_QK, k).score_QK[:, -1]
  return least_Q - _ROUNDING * np.abs(least_Q)


def ranked(queries, rows, ids_QK, k, near_QK=None, score_QK=None) -> Found:
  """The k best of the rows `ids_QK`, which are at hand.

  With `near_QK` only those are scored; the others have scores already.
  """
  best = Search(queries, k, ids_QK.size * queries.vector_Qd.shape[1])
  if near_QK is not None:
    best = Search(queries, ids_QK.shape[1], 0)
    best_lib.add(score_QK, ids_QK, near_QK, best.parts[0])
    ids_QK = np.where(near_QK, ids_QK, -1)
  best.run(
    lambda queries, found, share: kernels.rank(
      queries, rows, ids_QK[:, share].copy(), ids_QK[:, share].copy(), found
    ),
    ids_QK.shape[1],
  )
  found = best.found()
  return Found(found.ids_QK[:, :k], found.score_QK[:, :k], found.products)
