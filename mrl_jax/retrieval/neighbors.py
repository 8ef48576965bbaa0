"""Exact, adaptive and funnel search over one copy of nested embeddings."""

from collections.abc import Sequence
import sys
import time
from typing import Literal, NamedTuple

import jax
from jax.sharding import AxisType
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import mesh as device
from mrl_jax.retrieval.cost import Cost
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.cpu.rerank import rescore
from mrl_jax.retrieval.cpu.rerank import Rescored
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.mesh import DeviceDatabase

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
    scores_QK: float32 similarities at the last width that scored them; cosines
      are in [-1, 1].
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
      `np.memmap` stays on disk; lists, tensors and columns are converted.
    dims: the widths to compute prefix norms for; None: the full one.
    dtype: what to keep and score them in: bfloat16, float16, float32 or
      float64; None: as they are. A copy is made.
    mesh: over whose devices to split the rows, see `device.place`; its axes may
      be of any type. None: over those of this process, or, on a CPU, none: the
      host is the faster there.

  Raises:
    ValueError: not two-dimensional or floating, masked, empty, dims that do not
      fit, another dtype, or a row that is all zero or holds NaN or infinity, or
      whose length is below 1e-13 or beyond 1e19 (its number is given). A row
      whose prefix alone is shorter than 1e-13 scores 0 at that width.
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
  leave_one_out: inputs.LeaveOneOut = False,
) -> Neighbors:
  """The k rows nearest to each query by the cosine of their prefixes.

  Args:
    query_QD: float queries, of the database's dtype, and as wide or cut to
      `dim`. Lists, tensors and columns are converted (see `inputs`).
    database_MD: float rows, or what `prepare` made of them.
    k: neighbours, at most M, or M - 1 where each query's own row is left out.
    dim: width of the prefix; None: all of D.
    metric: 'cosine': slice, then normalise. 'dot': slice only.
    recall: None: exact. Else the share of the k nearest that
      `jax.lax.approx_max_k` aims at, on a mesh; it is made for TPUs.
    bounds: on a CPU, whether rows that a prepared prefix shows to be too far
      may be left unread beyond it. The same rows are found.
    leave_one_out: for queries that are rows of the database and would find
      themselves. True: query i is row i, and is left out of its neighbours. Or
      the row of each query, int [Q], -1 where it is none.

  Raises:
    ValueError: k outside [1, M], dim outside [1, D], widths or dtypes that
      differ, a query that `prepare` would refuse as a row, `recall` for a
      database on the host, or rows to leave out that are none.
  """
  start = time.perf_counter()
  query_QD, database = _check(query_QD, database_MD, metric, dim)
  M, D = database.shape
  (dim,) = nesting.validate((D if dim is None else dim,), D)
  own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
  k = _check_k(k, M, own_Q)
  if recall is not None and not 0 < recall <= 1:
    raise ValueError(f'recall {recall}: must be in (0, 1]')
  if recall is not None and not isinstance(database, DeviceDatabase):
    raise ValueError(f'recall {recall}: needs a database prepared on a mesh')
  *found, products = _nearest(
    query_QD, database, k, dim, metric, own_Q, recall, bounds
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
  leave_one_out: inputs.LeaveOneOut = False,
) -> Neighbors:
  """Adaptive retrieval (arXiv 2205.13147, section 4.3): shortlist, then rerank.

  The `shortlist` nearest rows at width `shortlist_dim` are scored again at
  `rerank_dim`, and the best k kept. Arguments and errors are those of `search`
  and `funnel`.
  """
  return funnel(
    query_QD,
    database_MD,
    dims=(shortlist_dim, rerank_dim),
    shortlists=(shortlist, k),
    metric=metric,
    leave_one_out=leave_one_out,
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
  leave_one_out: inputs.LeaveOneOut = False,
) -> Neighbors:
  """Funnel retrieval (arXiv 2205.13147, section 4.3.1).

  `dims[0]` searches all rows and keeps `shortlists[0]`; `dims[i]` scores those
  again and keeps `shortlists[i]`; the last is the k of the result. No step
  changes an earlier one's list. Queries may be cut to `dims[-1]`; the other
  arguments are those of `search`.

  Raises:
    ValueError: lengths that differ, dims that do not increase, shortlists that
      grow, or what `search` refuses.
  """
  start = time.perf_counter()
  dims = nesting.validate(dims, sys.maxsize)
  query_QD, database = _check(query_QD, database_MD, metric, dims[-1])
  dims = nesting.validate(dims, database.shape[1])
  shortlists = inputs.numbers(shortlists, 'shortlists')
  if len(shortlists) != len(dims):
    raise ValueError(
      f'shortlists {shortlists}: one is needed for each of dims {dims}'
    )
  if any(k < 1 for k in shortlists) or sorted(shortlists, reverse=True) != list(
    shortlists
  ):
    raise ValueError(f'shortlists {shortlists}: must be positive, never grow')
  M = database.shape[0]
  own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
  _check_k(shortlists[0], M, own_Q)
  ids_QK, score_QK, products = _nearest(
    query_QD, database, shortlists[0], dims[0], metric, own_Q
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
  leave_one_out: inputs.LeaveOneOut = False,
) -> Neighbors:
  """The k nearest of the rows `ids_QK`, which another search has found.

  Arguments are those of `search`. Raises ValueError for ids that are not
  integers in [0, M), k beyond those that are left, or what `search` refuses.
  """
  start = time.perf_counter()
  query_QD, database = _check(query_QD, database_MD, metric, dim)
  M, D = database.shape
  (dim,) = nesting.validate((D if dim is None else dim,), D)
  ids_QK, k = inputs.integers(ids_QK, 'ids'), inputs.number(k, 'k')
  if ids_QK.ndim != 2 or len(ids_QK) != len(query_QD) or not ids_QK.size:
    raise ValueError(
      f'ids of shape {ids_QK.shape}: must be [{len(query_QD)}, K], K at least 1'
    )
  if ids_QK.min() < 0 or ids_QK.max() >= M:
    raise ValueError(
      f'ids in [{ids_QK.min()}, {ids_QK.max()}]: must be in [0, {M})'
    )
  most = ids_QK.shape[1]
  own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
  if own_Q is not None:
    own_QK = ids_QK == own_Q[:, None]
    ids_QK, most = np.where(own_QK, -1, ids_QK), most - own_QK.sum(1).max()
  if not 1 <= k <= most:
    raise ValueError(f'k {k}: must be in [1, {most}], the ids given')
  *found, products = _rescore(query_QD, database, ids_QK, k, dim, metric)
  return Neighbors(*found, _paid(database, products, ids_QK.shape[1], start))


def _check_k(k: int, M: int, own_Q: np.ndarray | None) -> int:
  k, most = inputs.number(k, 'k'), M if own_Q is None else M - 1
  if not 1 <= k <= most:
    rows = 'the rows of the database' if most == M else "but the query's own"
    raise ValueError(f'k {k}: must be in [1, {most}], {rows}')
  return k


def _nearest(
  query_QD, database, k, dim, metric, own_Q=None, recall=None, bounds=True
) -> Rescored:
  if own_Q is not None:
    # One more, since a query may find itself.
    *found, products = _nearest(
      query_QD, database, k + 1, dim, metric, None, recall, bounds
    )
    return Rescored(*inputs.drop_own(own_Q, *found), products)
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
    ids_QK,
    k,
    cosine=cosine,
  )


def _paid(database, products, scanned, start) -> Cost:
  size = database.row_bytes / database.shape[1]
  seconds = time.perf_counter() - start
  return Cost(products / 1e6, products * size, scanned, seconds)


def _prefix(query_QD, dim, metric) -> np.ndarray:
  """float32 [Q, dim]; for the cosine of length 1, or 0 if it is too short."""
  query_Qd = np.ascontiguousarray(query_QD[:, :dim], np.float32)
  if metric == 'cosine':
    norm_Q1 = np.linalg.norm(query_Qd, axis=1, keepdims=True)
    query_Qd = query_Qd / np.where(norm_Q1 < inputs.SHORTEST, np.inf, norm_Q1)
  return query_Qd


def _check(query_QD, database_MD, metric, widest=None):
  """Queries as an array, and what `prepare` makes of the rows."""
  if metric not in ('cosine', 'dot'):
    raise ValueError(f"metric {metric!r}: must be 'cosine' or 'dot'")
  forks.check()
  database = database_MD
  if not isinstance(database, (Database, DeviceDatabase)):
    database = prepare(database_MD)
  width = database.shape[1]
  query_QD = inputs.queries(query_QD, width, database.dtype, widest or width)
  database_lib.check_queries(query_QD)
  return query_QD, database
