"""Inverted files (IVF): cells clustered at one width and scanned at any."""

import dataclasses
from typing import Any

import jax
import numpy as np

from mrl_jax.retrieval import prefixes

# Training rows per centroid, as in Faiss.
_ROWS_PER_CELL = 256


@dataclasses.dataclass(frozen=True)
class Cells:
  """A spherical clustering of unit prefixes.

  Attributes:
    centroid_Cd: unit centroids, at the width of the clustering (d_c).
    cell_M: int32, the cell of each row. Cells may be empty.
  """

  centroid_Cd: np.ndarray
  cell_M: np.ndarray

  @property
  def size_C(self) -> np.ndarray:
    """Rows in each cell, 0 for an empty one."""
    return np.bincount(self.cell_M, minlength=len(self.centroid_Cd))

  def nearest(self, query_QD: np.ndarray, probes: int, dim: int) -> np.ndarray:
    """The `probes` cells nearest to each query [Q, P], best first.

    Queries and centroids are compared by the cosine of their prefixes of width
    `dim`, at most d_c.
    """
    import faiss

    return faiss.knn(
      prefixes.unit(query_QD, dim),
      prefixes.unit(self.centroid_Cd, dim),
      probes,
      metric=faiss.METRIC_INNER_PRODUCT,
    )[1]

  def means(self, rows_MD: np.ndarray | jax.Array, dim: int) -> np.ndarray:
    """The mean unit prefix of each cell at any width, [C, dim]; 0 if empty."""
    sum_Cd = np.zeros((len(self.centroid_Cd), dim))
    for first, row_Bd in prefixes.unit_blocks(rows_MD, dim):
      np.add.at(sum_Cd, self.cell_M[first : first + len(row_Bd)], row_Bd)
    return (sum_Cd / np.maximum(self.size_C, 1)[:, None]).astype(np.float32)


def cluster(
  rows_MD: np.ndarray | jax.Array, dim: int, num_cells: int, *, seed: int
) -> Cells:
  """Clusters unit prefixes of width `dim` by spherical k-means."""
  import faiss

  kmeans = faiss.Kmeans(
    dim, num_cells, niter=20, spherical=True, seed=seed + 1,
    min_points_per_centroid=1, max_points_per_centroid=_ROWS_PER_CELL,
  )  # fmt: skip
  kmeans.train(
    prefixes.unit_sample(rows_MD, dim, _ROWS_PER_CELL * num_cells, seed)[1]
  )
  cells = Cells(prefixes.unit(kmeans.centroids, dim), np.zeros(0, np.int32))
  cell_M = [
    cells.nearest(row_Bd, 1, dim)[:, 0]
    for _, row_Bd in prefixes.unit_blocks(rows_MD, dim)
  ]
  return Cells(cells.centroid_Cd, np.concatenate(cell_M).astype(np.int32))


def fill(
  index: Any, cells: Cells, rows_MD: np.ndarray | jax.Array, rotation_dd=None
) -> Any:
  """Adds all rows to a `faiss.IndexIVF` of any width, each to its cell."""
  from faiss.contrib import ivf_tools

  for first, row_Bd in prefixes.unit_blocks(rows_MD, index.d):
    if rotation_dd is not None:
      row_Bd = row_Bd @ rotation_dd.T
    cell_B = cells.cell_M[first : first + len(row_Bd)].astype(np.int64)
    ivf_tools.add_preassigned(index, row_Bd, cell_B)
  return index


def flat(cells: Cells, rows_MD: np.ndarray | jax.Array, dim: int) -> Any:
  """A `faiss.IndexIVFFlat` of the rows at width `dim`, in the given cells."""
  import faiss

  quantizer = faiss.IndexFlatIP(dim)
  index = faiss.IndexIVFFlat(
    quantizer, dim, len(cells.centroid_Cd), faiss.METRIC_INNER_PRODUCT
  )
  # Cells are looked up by `Cells.nearest`, maybe at another width.
  index.is_trained = True
  return fill(index, cells, rows_MD)


def scan(
  index: Any, query_Qd: np.ndarray, k: int, cell_QP: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(scores [Q, K], ids [Q, K]) of the best rows in the given cells."""
  from faiss.contrib import ivf_tools

  index.nprobe = cell_QP.shape[1]
  # Faiss itself adds the dot products of queries and cell means.
  return ivf_tools.search_preassigned(index, query_Qd, k, cell_QP)
