"""Projections to compare nested embeddings with: SVD, PCA and random ones.

A projection is fitted once, and its output is sliced like a nested embedding:
each prefix is the baseline of that width.
"""

import dataclasses

import jax
import numpy as np

from mrl_jax import nesting

# Rows projected at a time.
_BLOCK = 16384


@dataclasses.dataclass(frozen=True)
class Projection:
  """`(x - mean_D) @ matrix_DW`, for queries and database alike."""

  mean_D: np.ndarray
  matrix_DW: np.ndarray

  def __call__(self, rows_ND: np.ndarray | jax.Array) -> np.ndarray:
    """The projected rows, float32 [N, W]."""
    D, W = self.matrix_DW.shape
    if rows_ND.ndim != 2 or rows_ND.shape[1] != D:
      raise ValueError(f'rows of shape {rows_ND.shape}: must be [N, {D}]')
    out_NW = np.empty((len(rows_ND), W), np.float32)
    for start in range(0, len(rows_ND), _BLOCK):
      row_BD = np.asarray(rows_ND[start : start + _BLOCK], np.float32)
      out_NW[start : start + _BLOCK] = (row_BD - self.mean_D) @ self.matrix_DW
    return out_NW


def principal(
  database_MD: np.ndarray | jax.Array,
  dim: int | None = None,
  *,
  center: bool = False,
) -> Projection:
  """Projects on the leading right singular vectors of the database.

  Without `center` it is the paper's SVD, which keeps all cosines at full width;
  with it, PCA. It is fitted on all rows in float64. Raises ValueError for a dim
  beyond the width, or a row that is not finite.
  """
  M, D = database_MD.shape
  (dim,) = nesting.validate((D if dim is None else dim,), D)
  sum_D, product_DD = np.zeros(D), np.zeros((D, D))
  for start in range(0, M, _BLOCK):
    row_BD = np.asarray(database_MD[start : start + _BLOCK], np.float64)
    finite_B = np.isfinite(row_BD).all(1)
    if not finite_B.all():
      raise ValueError(f'row {start + finite_B.argmin()} is not finite')
    sum_D += row_BD.sum(0)
    product_DD += row_BD.T @ row_BD
  mean_D = sum_D / M if center else np.zeros(D)
  if center:
    product_DD -= M * np.outer(mean_D, mean_D)
  vector_DD = np.linalg.eigh(product_DD)[1][:, ::-1]
  # Signs are arbitrary; the largest component is made positive.
  largest_D = np.abs(vector_DD).argmax(0)
  vector_DD = vector_DD * np.sign(vector_DD[largest_D, np.arange(D)])
  return _projection(mean_D, vector_DD[:, :dim])


def selection(width: int, dim: int | None = None, *, seed: int) -> Projection:
  """Selects dims at random, no dim twice (the paper's Rand. FS)."""
  (dim,) = nesting.validate((width if dim is None else dim,), width)
  order_D = random_order(width, seed=seed)
  return _projection(np.zeros(width), np.eye(width)[:, order_D[:dim]])


def random_order(width: int, *, seed: int) -> np.ndarray:
  """The order in which `selection` takes dims, int [width]."""
  return np.random.default_rng(seed).permutation(width)


def gaussian(width: int, dim: int | None = None, *, seed: int) -> Projection:
  """Random projection (Johnson-Lindenstrauss): keeps dot products on average.

  Each prefix is one, too, except for its scale, on which no cosine depends.
  """
  (dim,) = nesting.validate((width if dim is None else dim,), width)
  matrix_DW = np.random.default_rng(seed).standard_normal((width, dim))
  return _projection(np.zeros(width), matrix_DW / np.sqrt(dim))


def _projection(mean_D, matrix_DW) -> Projection:
  return Projection(
    mean_D.astype(np.float32),
    np.ascontiguousarray(matrix_DW.astype(np.float32)),
  )
