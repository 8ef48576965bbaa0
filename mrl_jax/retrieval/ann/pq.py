"""Product quantisation (PQ) of rows, with or without a rotation (OPQ)."""

from typing import Any

import jax
import numpy as np

from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.ann import ivf
from mrl_jax.retrieval.ann.ivf import Cells

# Centroids of each part of a code, whose number takes one byte.
CENTROIDS = 256
_TRAINING_ROWS = 64 * CENTROIDS
# Rounds of fitting rotation and codes in turn. Faiss's 50 gain little recall.
_ROTATIONS = 20


def train_rotation(row_Nd: np.ndarray, code_bytes: int) -> np.ndarray:
  """The rotation R [d, d] of OPQ, which encodes `row @ R.T`."""
  import faiss

  dim = row_Nd.shape[1]
  opq = faiss.OPQMatrix(dim, code_bytes)
  opq.niter = _ROTATIONS
  quantizer = faiss.ProductQuantizer(dim, code_bytes, 8)
  quantizer.cp.min_points_per_centroid = 1
  opq.pq = quantizer
  opq.train(row_Nd)
  return faiss.vector_to_array(opq.A).reshape(dim, dim)


def exhaustive(
  rows_MD: np.ndarray | jax.Array, dim: int, code_bytes: int, *, seed: int
) -> tuple[Any, np.ndarray]:
  """A `faiss.IndexPQ` of the rotated unit prefixes, and the rotation."""
  import faiss

  _, row_Nd = prefixes.unit_sample(rows_MD, dim, _TRAINING_ROWS, seed)
  rotation_dd = train_rotation(row_Nd, code_bytes)
  index = faiss.IndexPQ(dim, code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
  index.pq.cp.min_points_per_centroid = 1
  index.train(row_Nd @ rotation_dd.T)
  for _, row_Bd in prefixes.unit_blocks(rows_MD, dim):
    index.add(row_Bd @ rotation_dd.T)
  return index, rotation_dd


def in_cells(
  cells: Cells,
  rows_MD: np.ndarray | jax.Array,
  dim: int,
  code_bytes: int,
  *,
  rotate: bool,
  seed: int,
) -> tuple[Any, np.ndarray | None]:
  """A `faiss.IndexIVFPQ` at width `dim`, and its rotation or None.

  Codes encode the difference of a row and the mean of its cell at this width,
  so that the cells may have been clustered at any other.
  """
  import faiss

  mean_Cd = cells.means(rows_MD, dim)
  ids_N, row_Nd = prefixes.unit_sample(rows_MD, dim, _TRAINING_ROWS, seed)
  rest_Nd = row_Nd - mean_Cd[cells.cell_M[ids_N]]
  rotation_dd = None
  if rotate:
    rotation_dd = train_rotation(rest_Nd, code_bytes)
    rest_Nd, mean_Cd = rest_Nd @ rotation_dd.T, mean_Cd @ rotation_dd.T
  quantizer = faiss.IndexFlatIP(dim)
  quantizer.add(mean_Cd)
  index = faiss.IndexIVFPQ(
    quantizer, dim, len(mean_Cd), code_bytes, 8, faiss.METRIC_INNER_PRODUCT
  )
  index.pq.cp.min_points_per_centroid = 1
  index.pq.train(rest_Nd)
  index.is_trained = True
  return ivf.fill(index, cells, rows_MD, rotation_dd), rotation_dd
