"""Exact, adaptive and funnel search over one copy of nested embeddings."""

from collections.abc import Sequence
import dataclasses
import sys
import time
from typing import Any, Literal

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import mesh as mesh_lib
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cost import Cost
from mrl_jax.retrieval.cost import Neighbors
from mrl_jax.retrieval.cpu.best import Found
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.mesh import DeviceDatabase
from mrl_jax.retrieval.rotation import Rotation

Metric = Literal['cosine', 'dot']
_METRIC = checks.choice('cosine', 'dot')
Rows = np.ndarray | jax.Array | Database | DeviceDatabase


def prepare(
  database_MD: np.ndarray | jax.Array,
  dims: Sequence[int] | None = None,
  *,
  dtype: Literal['float32', 'bfloat16'] | None = None,
  mesh: jax.sharding.Mesh | None = None,
  rotation: Rotation | None = None,
) -> Database | DeviceDatabase:
  """Prepares a database that every search takes in place of an array.

  Args:
    database_MD: float embeddings [M, D]. On a CPU they are not copied, and a
      `np.memmap` stays on disk; lists, tensors and columns are converted.
    dims: the widths at which norms are computed ahead; None: the full one.
    dtype: bfloat16, float16, float32 or float64, to which rows are copied and
      in which they are scored; None: as they are.
    mesh: a mesh over whose devices the rows are split, see `mesh.place`; its
      axes may be of any type. None: the devices of this process; on a CPU the
      rows stay on the host, where the search is faster.
    rotation: of the dims beyond the trained widths, see `rotation.fit`, for a
      copy of the rows on the host. Searches at its widths find what they would
      without.

  Raises:
    ValueError: not two-dimensional or floating, masked, empty, dims that do not
      fit, another dtype, or a row that is all zero or holds NaN or infinity, or
      whose length is below 1e-13 or beyond 1e19 (its number is given). A row
      whose prefix alone is shorter than 1e-13 scores 0 at that width. Or a
      rotation of another width, or on a mesh.
  """
  if rotation is not None:
    database_MD = checks.as_floats('database', database_MD)
    if mesh is not None or database_MD.shape[-1:] != (rotation.width,):
      raise ValueError(
        f'rotation of width {rotation.width}: must be that of the rows, '
        f'{database_MD.shape[-1]}, on the host'
      )
    for dim in dims or ():
      rotation(database_MD[:1, :dim])
    found = database_lib.host_database(rotation(database_MD), dims, dtype=dtype)
    return dataclasses.replace(found, rotation=rotation)
  if mesh is None and jax.default_backend() == 'cpu':
    return database_lib.host_database(database_MD, dims, dtype=dtype)
  if mesh is None:
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ('rows',), devices=devices)
  return mesh_lib.place(database_MD, mesh, dims, dtype=dtype)


@checks.takes(
  k=checks.whole(),
  metric=_METRIC,
  recall=checks.number(),
)
def search(
  query_QD: np.ndarray | jax.Array,
  database_MD: Rows,
  k: int,
  *,
  dim: int | None = None,
  metric: Metric = 'cosine',
  recall: float | None = None,
  leave_one_out: inputs.LeaveOneOut = False,
) -> Neighbors:
  """The k rows nearest to each query by the cosine of their prefixes.

  Args:
    query_QD: float queries of the database's dtype, as wide as it or cut to
      `dim`. Lists, tensors and columns are converted.
    database_MD: float rows, or the result of `prepare`.
    k: neighbours, at most M, or M - 1 where each query's own row is left out.
    dim: width of the prefix; None: all of D.
    metric: 'cosine' slices, then normalises; 'dot' only slices.
    recall: the share of the k nearest that `jax.lax.approx_max_k` aims at, on a
      mesh, for TPUs; None: the search is exact.
    leave_one_out: for queries that are rows of the database and would find
      themselves. True: query i is row i, which is left out of its neighbours.
      Or the row that each query is, int [Q], -1 for none.

  Raises:
    ValueError: k outside [1, M], dim outside [1, D], widths or dtypes that
      differ, a query that `prepare` would refuse as a row, `recall` for a
      database on the host, or rows to leave out that are none.
  """
  start = time.perf_counter()
  query_QD, database = _check(query_QD, database_MD, dim)
  M, D = database.shape
  dim = D if dim is None else nesting.validate((dim,), D)[0]
  own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
  _check_k(k, M, own_Q)
  if recall is not None and not 0 < recall <= 1:
    raise ValueError(f'recall {recall}: must be in (0, 1]')
  query_Qd = _prefix(query_QD, dim, metric)
  found = _nearest(
    query_Qd, database, k, own_Q, cosine=metric == 'cosine', recall=recall
  )
  return _neighbors(found, database, M, start)


@checks.takes(k=checks.whole(), shortlist=checks.whole())
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


@checks.takes(metric=_METRIC)
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

  All rows are searched at width `dims[0]`, and the best `shortlists[0]` kept;
  those are scored again at `dims[1]`, and so on. The last shortlist is the k of
  the result. Queries may be cut to `dims[-1]`; the other arguments are those of
  `search`.

  Raises:
    ValueError: lengths that differ, dims that do not increase, shortlists that
      grow, or what `search` refuses.
  """
  start = time.perf_counter()
  dims = nesting.validate(dims, sys.maxsize)
  query_QD, database = _check(query_QD, database_MD, dims[-1])
  (M, D), cosine = database.shape, metric == 'cosine'
  dims = nesting.validate(dims, D)
  shortlists = inputs.check_shortlists(shortlists, dims)
  own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
  _check_k(shortlists[0], M, own_Q)
  query_Qd = _prefix(query_QD, dims[0], metric)
  found = _nearest(query_Qd, database, shortlists[0], own_Q, cosine=cosine)
  products = found.products
  for dim, k in zip(dims[1:], shortlists[1:], strict=True):
    query_Qd = _prefix(query_QD, dim, metric)
    found = database.rescore(query_Qd, found.ids_QK, k, cosine=cosine)
    products += found.products
  return _neighbors(found._replace(products=products), database, M, start)


@checks.takes(ids_QK=checks.as_int64, k=checks.whole(), metric=_METRIC)
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
  """The k nearest of the rows `ids_QK` that another search has found.

  Arguments are those of `search`. Raises ValueError for ids that are not
  integers in [0, M), k beyond those that are left, or what `search` refuses.
  """
  start = time.perf_counter()
  query_QD, database = _check(query_QD, database_MD, dim)
  M, D = database.shape
  dim = D if dim is None else nesting.validate((dim,), D)[0]
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
  query_Qd = _prefix(query_QD, dim, metric)
  found = database.rescore(query_Qd, ids_QK, k, cosine=metric == 'cosine')
  return _neighbors(found, database, ids_QK.shape[1], start)


def _check(query_QD: Any, database: Any, widest: int | None):
  """Converts queries and rows; raises ValueError for those that do not fit."""
  forks.check()
  if not isinstance(database, (Database, DeviceDatabase)):
    database = prepare(database)
  return database_lib.queries(query_QD, database, widest), database


def _check_k(k: int, M: int, own_Q: np.ndarray | None) -> None:
  most = M if own_Q is None else M - 1
  if not 1 <= k <= most:
    rows = 'the rows of the database' if most == M else "but the query's own"
    raise ValueError(f'k {k}: must be in [1, {most}], {rows}')


def _prefix(query_QD: np.ndarray, dim: int, metric: Metric) -> np.ndarray:
  """float32 [Q, dim]; for the cosine of length 1, or 0 if it is too short."""
  if metric == 'cosine':
    return prefixes.unit(query_QD, dim)
  return np.ascontiguousarray(query_QD[:, :dim], np.float32)


def _nearest(query_Qd, database, k, own_Q, **options) -> Found:
  if own_Q is None:
    return database.nearest(query_Qd, k, **options)
  # One more, since a query may find itself.
  found = database.nearest(query_Qd, k + 1, **options)
  return Found(*inputs.drop_own(own_Q, *found[:2]), found.products)


def _neighbors(found: Found, database, scanned: int, start: float) -> Neighbors:
  size = database.row_bytes / database.shape[1]
  seconds = time.perf_counter() - start
  cost = Cost(found.products / 1e6, found.products * size, scanned, seconds)
  return Neighbors(found.ids_QK, found.score_QK, cost)
