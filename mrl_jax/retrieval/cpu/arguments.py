"""The arguments of the loops of a search."""

from typing import NamedTuple

import numpy as np

# Rows of a tile, and dims summed together.
TILE, LANE = 512, 8


class Queries(NamedTuple):
  """Queries [Q, d], and the norms of what lies beyond each level [Q, L]."""

  vector_Qd: np.ndarray
  tail_QL: np.ndarray


class Rows(NamedTuple):
  """Rows to score.

  Attributes:
    vector_BD: float32, read-only and contiguous, at least as wide as queries.
    norm_B: what products are divided by; 1 for dot products.
    size_B: at least the norms, by which rounding is bounded.
    tail_LB: norms of what lies beyond each level; [L, 0] if they are unknown.
    level_L: widths up to which products are summed; the last is the queries'.
    limit: scores are clipped to [-limit, limit], so that rounding takes no
      cosine beyond 1.
    first: the id of the first row.
  """

  vector_BD: np.ndarray
  norm_B: np.ndarray
  size_B: np.ndarray
  tail_LB: np.ndarray
  level_L: np.ndarray
  limit: np.float32
  first: int


class Best(NamedTuple):
  """The best rows of each query so far, as sort keys, in any order.

  Attributes:
    key_QC: the keys, of which the first count_Q are set, see `kernels`.
    least_Q: what a score must reach: the k-th best so far, or a lower number.
      Threads share it; what one may undo of another's only costs time.
    k: how many are wanted, less than C.
  """

  key_QC: np.ndarray
  count_Q: np.ndarray
  least_Q: np.ndarray
  k: int
