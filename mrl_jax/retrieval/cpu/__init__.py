"""Exact search on a CPU that reads most rows only up to a prefix.

`nearest` below is the definition: it scores every row and sorts. The modules
find the same rows faster, without XLA and compiled for no shape:

  exact    the whole search, and the k best of a shortlist
  tiles    searches by the first dims, and what they tell a longer one
  choice   the width up to which all rows are multiplied, by a cost model
  bounds   the most that a row can score, from a prefix and two norms
  stored   the rows of a database, in tiles and in blocks
  best     the best rows so far of each query
  threads  those that share the work
  products all rows multiplied by one query
  kernels  loops over all rows
  scores   scores of rows in full
  keys     the best rows, sorted
  arguments  what the loops take
  compiled   the loops, compiled by Numba
"""

import numpy as np

from mrl_jax.retrieval import inputs


def nearest(
  query_Qd: np.ndarray, rows_Md: np.ndarray, k: int, *, cosine: bool = True
) -> tuple[np.ndarray, np.ndarray]:
  """Plain reference: ids [Q, k] and scores [Q, k]; ties go to the lower id."""
  vectors = []
  for x_Nd in (query_Qd, rows_Md):
    x_Nd = x_Nd.astype(np.float64)
    if cosine:
      norm_N1 = np.linalg.norm(x_Nd, axis=1, keepdims=True)
      x_Nd /= np.where(norm_N1 < inputs.SHORTEST, np.inf, norm_N1)
    vectors.append(x_Nd)
  # In float32, in which copies of a row tie.
  score_QM = (vectors[0] @ vectors[1].T).astype(np.float32)
  ids_QK = np.argsort(-score_QM, axis=1, kind='stable')[:, :k]
  return ids_QK, np.take_along_axis(score_QM, ids_QK, axis=1)
