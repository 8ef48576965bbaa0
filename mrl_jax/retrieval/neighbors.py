"""Exact, adaptive and funnel search over one copy of nested embeddings."""

from collections.abc import Sequence
import time
from typing import Literal, NamedTuple

import jax
from jax.sharding import AxisType
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import device
from mrl_jax.retrieval import exact
from mrl_jax.retrieval.cost import Cost
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.device import DeviceDatabase
from mrl_jax.retrieval.rescore import rescore
from mrl_jax.retrieval.rescore import Rescored

Metric = Literal['cosine', 'dot']
_METRIC = checks.choice('cosine', 'dot')
Rows = np.ndarray | jax.Array | Database | DeviceDatabase


class _IdsAndScores(NamedTuple):
  ids_QK: np.ndarray
  scores_QK: np.ndarray


class Neighbors(_IdsAndScores):
  """The nearest rows of each query, best first; ties go to the lower id.

  Ties are those of the float32 scores. A matrix product may round two equal
  rows differently in the last bit, by their place in it.

  Attributes:
    ids_QK: int64 rows of the database.
    scores_QK: float32 similarities at the last width that scored them.
    cost: what the search paid.
  """

  cost: Cost | None = None

  def __new__(cls, ids_QK, scores_QK, cost: Cost | None = None):
    self = super().__new__(cls, ids_QK, scores_QK)
    self.cost = cost
    return self


def prepare(
  database_MD: np.ndarray | jax.Array,
  dims: Sequence[int] | None = None,
  *,
  dtype: Literal['float32', 'bfloat16'] | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> Database | DeviceDatabase:
  """Makes a database that every search below takes in place of an array.

  Args:
    database_MD: float embeddings [M, D]. On a CPU they are not copied, and a
      `np.memmap` stays on disk.
    dims: the widths to compute prefix norms for; None: the full one.
    dtype: what to keep and score them in; None: as they are. A copy is made.
    mesh: over whose devices to split the rows, see `device.place`; None: over
      those of this process, or, on a CPU, none: the host is the faster there.

  Raises:
    ValueError: not two-dimensional or floating, empty, dims that do not fit, or
      a row that is all zero or holds NaN or infinity, or whose length is below
      1e-13 or beyond 1e19 (its number is given).
  """
  if mesh is None and jax.default_backend() != 'cpu':
    devices = jax.local_devices()
    mesh = jax.make_mesh(
      (len(devices),),
      ('rows',),
      axis_types=(AxisType.Auto,),
      devices=devices,
    )
  if mesh is None:
    return database_lib.host_database(database_MD, dims, dtype=dtype)
  return device.place(database_MD, mesh, dims, dtype=dtype)


@checks.takes(
  query_QD=checks.floats('QD'),
  database_MD=checks.floats('MD', also=(Database, DeviceDatabase)),
  k=checks.whole(),
  dim=checks.whole(),
  metric=_METRIC,
  recall=checks.number(),
  bounds=checks.truth,
)
def search(
  query_QD: np.ndarray | jax.Array,
  database_MD: Rows,
  k: int,
  *,
  dim: int | None = None,
  metric: Metric = 'cosine',
  recall: float | None = None,
  bounds: bool = True,
) -> Neighbors:
  """The k rows nearest to each query by the cosine of their prefixes.

  Args:
    query_QD: float queries, of the database's dtype.
    database_MD: float rows, or what `prepare` made of them.
    k: neighbours, at most M.
    dim: width of the prefix; None: all of D.
    metric: 'cosine': slice, then normalise. 'dot': slice only.
    recall: None: exact. Else the share of the k nearest that
      `jax.lax.approx_max_k` aims at, on a mesh; it is made for TPUs.
    bounds: on a CPU, whether rows that a prepared prefix shows to be too far
      may be left unread beyond it. The same rows are found.

  Raises:
    ValueError: k outside [1, M], dim outside [1, D], widths or dtypes that
      differ, a query that `prepare` would refuse as a row, or `recall` for a
      database on the host.
  """
  start = time.perf_counter()
  query_QD, database = _check(query_QD, database_MD, metric)
  M, D = database.shape
  (dim,) = nesting.validate((D if dim is None else dim,), D)
  _check_k(k, M)
  if recall is not None and not 0 < recall <= 1:
    raise ValueError(f'recall {recall}: must be in (0, 1]')
  if recall is not None and not isinstance(database, DeviceDatabase):
    raise ValueError(f'recall {recall}: needs a database prepared on a mesh')
  *found, products = _nearest(
    query_QD, database, k, dim, metric, recall, bounds
  )
  return Neighbors(*found, _paid(database, products, M, start))


@checks.takes(
  k=checks.whole(),
  shortlist_dim=checks.whole(),
  rerank_dim=checks.whole(),
  shortlist=checks.whole(),
)
def adaptive(
  query_QD: np.ndarray | jax.Array,
  database_MD: Rows,
  k: int,
  *,
  shortlist_dim: int,
  rerank_dim: int,
  shortlist: int,
  metric: Metric = 'cosine',
) -> Neighbors:
  """Adaptive retrieval (arXiv 2205.13147, section 4.3): shortlist, then rerank.

  The `shortlist` nearest rows at width `shortlist_dim` are scored again at
  `rerank_dim`, and the best k kept. Raises ValueError as `funnel` does.
  """
  return funnel(
    query_QD,
    database_MD,
    dims=(shortlist_dim, rerank_dim),
    shortlists=(shortlist, k),
    metric=metric,
  )


@checks.takes(
  query_QD=checks.floats('QD'),
  database_MD=checks.floats('MD', also=(Database, DeviceDatabase)),
  dims=checks.wholes(),
  shortlists=checks.wholes(),
  metric=_METRIC,
)
def funnel(
  query_QD: np.ndarray | jax.Array,
  database_MD: Rows,
  *,
  dims: Sequence[int],
  shortlists: Sequence[int],
  metric: Metric = 'cosine',
) -> Neighbors:
  """Funnel retrieval (arXiv 2205.13147, section 4.3.1).

  `dims[0]` searches all rows and keeps `shortlists[0]`; `dims[i]` scores those
  again and keeps `shortlists[i]`; the last is the k of the result. No step
  changes an earlier one's list.

  Raises:
    ValueError: lengths that differ, dims that do not increase, shortlists that
      grow, or what `search` refuses.
  """
  start = time.perf_counter()
  query_QD, database = _check(query_QD, database_MD, metric)
  dims = nesting.validate(dims, database.shape[1])
  if len(shortlists) != len(dims):
    raise ValueError(
      f'shortlists {tuple(shortlists)}: one is needed for each of dims {dims}'
    )
  if any(k < 1 for k in shortlists) or sorted(shortlists, reverse=True) != list(
    shortlists
  ):
    raise ValueError(
      f'shortlists {tuple(shortlists)}: must be positive and never grow'
    )
  M = database.shape[0]
  _check_k(shortlists[0], M)
  ids_QK, score_QK, products = _nearest(
    query_QD, database, shortlists[0], dims[0], metric
  )
  for dim, k in zip(dims[1:], shortlists[1:], strict=True):
    ids_QK, score_QK, more = _rescore(
      query_QD, database, ids_QK, k, dim, metric
    )
    products += more
  return Neighbors(ids_QK, score_QK, _paid(database, products, M, start))


@checks.takes(
  query_QD=checks.floats('QD'),
  database_MD=checks.floats('MD', also=(Database, DeviceDatabase)),
  ids_QK=checks.integers('QK'),
  k=checks.whole(),
  dim=checks.whole(),
  metric=_METRIC,
)
def rerank(
  query_QD: np.ndarray | jax.Array,
  database_MD: Rows,
  ids_QK: np.ndarray,
  k: int,
  *,
  dim: int | None = None,
  metric: Metric = 'cosine',
) -> Neighbors:
  """The k nearest of the rows `ids_QK`, which another search has found.

  Raises ValueError for ids outside [0, M), k beyond them, or what `search`
  refuses.
  """
  start = time.perf_counter()
  query_QD, database = _check(query_QD, database_MD, metric)
  M, D = database.shape
  (dim,) = nesting.validate((D if dim is None else dim,), D)
  if ids_QK.ndim != 2 or len(ids_QK) != len(query_QD):
    raise ValueError(
      f'ids of shape {ids_QK.shape}: must be [{len(query_QD)}, K]'
    )
  if ids_QK.min() < 0 or ids_QK.max() >= M:
    raise ValueError(
      f'ids in [{ids_QK.min()}, {ids_QK.max()}]: must be in [0, {M})'
    )
  if not 1 <= k <= ids_QK.shape[1]:
    raise ValueError(f'k {k}: must be in [1, {ids_QK.shape[1]}], the ids given')
  *found, products = _rescore(query_QD, database, ids_QK, k, dim, metric)
  return Neighbors(*found, _paid(database, products, ids_QK.shape[1], start))


def _check_k(k: int, M: int) -> None:
  if not 1 <= k <= M:
    raise ValueError(f'k {k}: must be in [1, {M}], the rows of the database')


def _nearest(
  query_QD, database, k, dim, metric, recall=None, bounds=True
) -> Rescored:
  query_Qd, cosine = _prefix(query_QD, dim, metric), metric == 'cosine'
  if isinstance(database, DeviceDatabase):
    found = database.nearest(query_Qd, k, cosine=cosine, recall=recall)
    return Rescored(*found, database.shape[0] * dim)
  if cosine:
    database.norm_M(dim)
  return exact.nearest(
    query_Qd,
    database.embedding_MD,
    database.norms,
    k,
    cosine=cosine,
    bounds=bounds,
  )


def _rescore(query_QD, database, ids_QK, k, dim, metric) -> Rescored:
  query_Qd, cosine = _prefix(query_QD, dim, metric), metric == 'cosine'
  if isinstance(database, DeviceDatabase):
    found = database.rescore(query_Qd, ids_QK, k, cosine=cosine)
    return Rescored(*found, ids_QK.shape[1] * dim)
  if cosine:
    database.norm_M(dim)
  return rescore(
    query_Qd,
    database.embedding_MD,
    database.norms,
    ids_QK.astype(np.int64),
    k,
    cosine=cosine,
  )


def _paid(database, products, scanned, start) -> Cost:
  size = database.row_bytes / database.shape[1]
  seconds = time.perf_counter() - start
  return Cost(products / 1e6, products * size, scanned, seconds)


def _prefix(query_QD, dim, metric) -> np.ndarray:
  """float32 [Q, dim]; of length 1 for the cosine, unless it is all zero."""
  query_Qd = np.ascontiguousarray(query_QD[:, :dim], np.float32)
  if metric == 'cosine':
    norm_Q1 = np.linalg.norm(query_Qd, axis=1, keepdims=True)
    query_Qd = query_Qd / np.where(norm_Q1 == 0, 1, norm_Q1)
  return query_Qd


def _check(query_QD, database_MD, metric):
  if metric not in ('cosine', 'dot'):
    raise ValueError(f"metric {metric!r}: must be 'cosine' or 'dot'")
  forks.check()
  database = database_MD
  if not isinstance(database, (Database, DeviceDatabase)):
    database = prepare(database_MD)
  width = database.shape[1]
  if query_QD.ndim != 2 or not len(query_QD) or query_QD.shape[1] != width:
    raise ValueError(
      f'queries of shape {query_QD.shape} for a database of width {width}: '
      f'must be [Q, {width}], Q at least 1'
    )
  if query_QD.dtype != database.dtype:
    raise ValueError(
      f'queries of {query_QD.dtype} for a database of {database.dtype}: must '
      'be the same'
    )
  query_QD = np.asarray(query_QD)
  norm_Q1 = database_lib.block_norms(query_QD, dims=(width,))
  database_lib.check_norms(norm_Q1[:, 0], 'queries')
  return query_QD, database
