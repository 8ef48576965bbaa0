"""What nested embeddings are compared with: arrays for the same searches.

A projection is fitted once; every prefix of its output is the baseline of that
width, so `search`, `adaptive` and `funnel` take the projected arrays as they
are. Separately trained embeddings, one array a width, are `Separate`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools

import jax
import numpy as np

from mrl_jax import nesting
from mrl_jax.retrieval import neighbors
from mrl_jax.retrieval.neighbors import Neighbors

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
  """The leading right singular vectors of the database.

  Not centred it is the paper's SVD, and keeps all cosines at full width; with
  `center` it is PCA. Fitted on all rows, in blocks, in float64. Raises
  ValueError for a dim beyond the width, or a row that is not finite.
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
  # The sign is free: the largest component is positive.
  largest_D = np.abs(vector_DD).argmax(0)
  vector_DD = vector_DD * np.sign(vector_DD[largest_D, np.arange(D)])
  return _projection(mean_D, vector_DD[:, :dim])


def selection(width: int, dim: int | None = None, *, seed: int) -> Projection:
  """Dims at random, no two the same (the paper's Rand. FS)."""
  (dim,) = nesting.validate((width if dim is None else dim,), width)
  order_D = random_order(width, seed=seed)
  return _projection(np.zeros(width), np.eye(width)[:, order_D[:dim]])


def random_order(width: int, *, seed: int) -> np.ndarray:
  """The order in which `selection` takes dims, int [width]."""
  return np.random.default_rng(seed).permutation(width)


def gaussian(width: int, dim: int | None = None, *, seed: int) -> Projection:
  """Random projection (Johnson-Lindenstrauss): keeps dot products on average.

  Each prefix is such a projection too, but for its scale, which the cosine does
  not see.
  """
  (dim,) = nesting.validate((width if dim is None else dim,), width)
  matrix_DW = np.random.default_rng(seed).standard_normal((width, dim))
  return _projection(np.zeros(width), matrix_DW / np.sqrt(dim))


@dataclasses.dataclass(frozen=True)
class Separate:
  """Embeddings trained one by one for each width (FF): queries and databases.

  Searched at width d the arrays of width d are read; nothing is sliced. Raises
  ValueError unless the widths agree, as do the numbers of rows.
  """

  queries: Mapping[int, np.ndarray | jax.Array]
  databases: Mapping[int, np.ndarray | jax.Array]

  def __post_init__(self):
    for name, arrays in (('queries', self.queries), ('rows', self.databases)):
      shapes = {dim: arrays[dim].shape for dim in sorted(arrays)}
      counts = {shape[0] for shape in shapes.values()}
      if len(counts) != 1 or any(s[1:] != (d,) for d, s in shapes.items()):
        raise ValueError(
          f'{name} of shapes {shapes}: each must be [N, its width], one N'
        )
    if set(self.queries) != set(self.databases):
      raise ValueError(
        f'queries of widths {sorted(self.queries)}, databases of '
        f'{sorted(self.databases)}: must be the same'
      )

  def search(self, k: int, *, dim: int) -> Neighbors:
    """As `neighbors.search`."""
    (query_Qd, row_Md) = self._at(dim)
    return neighbors.search(query_Qd, row_Md, k)

  def adaptive(
    self, k: int, *, shortlist_dim: int, rerank_dim: int, shortlist: int
  ) -> Neighbors:
    """As `neighbors.adaptive`."""
    return self.funnel(
      dims=(shortlist_dim, rerank_dim), shortlists=(shortlist, k)
    )

  def funnel(
    self, *, dims: Sequence[int], shortlists: Sequence[int]
  ) -> Neighbors:
    """As `neighbors.funnel`; each step reads another stored copy."""
    dims = nesting.validate(dims, max(self.databases))
    if len(shortlists) != len(dims) or any(
      after > before for before, after in itertools.pairwise(shortlists)
    ):
      raise ValueError(
        f'shortlists {tuple(shortlists)} of dims {dims}: one each, not growing'
      )
    found = self.search(shortlists[0], dim=dims[0])
    for dim, k in zip(dims[1:], shortlists[1:], strict=True):
      query_Qd, row_Md = self._at(dim)
      found = neighbors.rerank(query_Qd, row_Md, found.ids_QK, k)
    return found

  def _at(self, dim):
    if dim not in self.databases:
      raise ValueError(f'dim {dim}: must be one of {sorted(self.databases)}')
    return self.queries[dim], self.databases[dim]


def _projection(mean_D, matrix_DW) -> Projection:
  return Projection(
    mean_D.astype(np.float32),
    np.ascontiguousarray(matrix_DW.astype(np.float32)),
  )
