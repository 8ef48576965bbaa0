"""Search by JAX: the rows lie on one accelerator, or are split over a mesh.

Each device looks for the best of its own rows, and one merge of these small
lists gives the result. With several processes each holds its share of the rows.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mrl_jax.retrieval import inputs
from mrl_jax.retrieval.database import host_database

# Queries and rows scored at a time; and the bytes that the candidates gathered
# for a block of queries may take.
_QUERIES, _ROWS = 512, 32768
_GATHER_BYTES = 64 << 20
# Scores whose maximum stands for them while the top k are looked for.
_GROUP = 32
# Ids are int32 on devices.
_MOST_ROWS = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class DeviceDatabase:
  """One copy of the embeddings over the devices of a mesh; made by `place`.

  Attributes:
    mesh: its S devices, each with R / S rows, the last of them padding.
    embedding_RD: the rows of all shards.
    norms: norm_R of the prefix of each prepared width, as in `Database`.
    first_S: the id of each shard's first row.
    count_S: how many of its rows are no padding.
    shape: (M, D).
    dtype: that queries must have, the database's own.
  """

  mesh: jax.sharding.Mesh
  embedding_RD: jax.Array
  norms: dict[int, jax.Array]
  first_S: jax.Array
  count_S: jax.Array
  shape: tuple[int, int]
  dtype: np.dtype

  @property
  def row_bytes(self) -> int:
    return self.shape[1] * self.embedding_RD.dtype.itemsize

  def norm_R(self, dim: int) -> jax.Array:
    """The norms at width `dim`, computed now if it was not prepared."""
    if dim not in self.norms:
      self.norms[dim] = _norms(self.embedding_RD, dim)
    return self.norms[dim]

  def nearest(
    self, query_Qd: np.ndarray, k: int, *, cosine: bool, recall: float | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """(ids [Q, k], scores [Q, k]) of the best rows; ties go to the lower id.

    `recall` is that of `jax.lax.approx_max_k`; None: exact.
    """
    rows = self._rows(query_Qd.shape[1], cosine)
    find = functools.partial(_nearest, self.mesh, k, recall, cosine)
    return _by_blocks(lambda x: find(x, *rows), _QUERIES, query_Qd)

  def rescore(
    self, query_Qd: np.ndarray, ids_QK: np.ndarray, k: int, *, cosine: bool
  ) -> tuple[np.ndarray, np.ndarray]:
    """(ids [Q, k], scores [Q, k]), the best of the rows `ids_QK`."""
    rows = self._rows(query_Qd.shape[1], cosine)
    find = functools.partial(_rescore, self.mesh, k, cosine)
    row_bytes = 4 * query_Qd.shape[1] * ids_QK.shape[1]
    size = min(_QUERIES, max(1, _GATHER_BYTES // row_bytes))
    # In the order of the rows, for the ties.
    ids_QK = np.sort(ids_QK, axis=1).astype(np.int32)
    return _by_blocks(
      lambda x, ids: find(x, ids, *rows), size, query_Qd, ids_QK
    )

  def _rows(self, dim, cosine):
    norm_R = self.norm_R(dim) if cosine else jnp.ones_like(self.norm_R(dim))
    return self.embedding_RD, norm_R, self.first_S, self.count_S


def place(
  database_MD: np.ndarray | jax.Array,
  mesh: jax.sharding.Mesh,
  dims: Sequence[int] | None = None,
  *,
  dtype: str | None = None,
) -> DeviceDatabase:
  """Splits the rows over all devices of the mesh.

  Over devices of several processes each passes its own rows; ids count through
  those of the first process, then of the next. Raises ValueError as `prepare`
  does.
  """
  mesh = _automatic(mesh)
  # Checks the rows and computes the norms where they are.
  local = host_database(database_MD, dims, dtype=dtype)
  rows_MD, M = local.embedding_MD, len(local.embedding_MD)
  counts_P = np.zeros(jax.process_count(), int)
  counts_P[jax.process_index()] = M
  if len({device.process_index for device in mesh.devices.flat}) > 1:
    counts_P = multihost_utils.process_allgather(counts_P).sum(0)
  if counts_P.sum() > _MOST_ROWS:
    raise ValueError(
      f'database of {counts_P.sum()} rows: must be at most {_MOST_ROWS}'
    )
  first_S, count_S, size = _layout(mesh, counts_P)
  offset = counts_P[: jax.process_index()].sum()
  sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

  def split(array, filled):
    """The shards of this process's part of an array, each padded to `size`."""

    def shard(index):
      s = index[0].start // size if index[0].start else 0
      start = first_S[s] - offset
      part = np.asarray(array[start : start + count_S[s]])
      padding = [(0, size - len(part)), *[(0, 0)] * (part.ndim - 1)]
      return np.pad(part, padding, constant_values=filled)

    shape = (size * mesh.size, *array.shape[1:])
    return jax.make_array_from_callback(shape, sharding, shard)

  one_each = lambda x: jax.make_array_from_callback(
    x.shape, sharding, lambda index: x[index]
  )
  return DeviceDatabase(
    mesh,
    split(rows_MD, 0),
    {dim: split(norm_M, 1) for dim, norm_M in local.norms.items()},
    one_each(first_S.astype(np.int32)),
    one_each(count_S.astype(np.int32)),
    (int(counts_P.sum()), rows_MD.shape[1]),
    local.dtype,
  )


def _automatic(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
  """The same devices by automatic axes; `jax.make_mesh` has explicit ones."""
  if not isinstance(mesh, jax.sharding.Mesh):
    raise ValueError(f'mesh {mesh!r}: must be a jax.sharding.Mesh')
  types = (AxisType.Auto,) * len(mesh.axis_names)
  return jax.sharding.Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def _layout(mesh, counts_P) -> tuple[np.ndarray, np.ndarray, int]:
  """First id and number of rows of each shard, and the rows it has room for."""
  process_S = np.array([x.process_index for x in mesh.devices.flat])
  devices_P = np.bincount(process_S, minlength=len(counts_P))
  size = int(np.max(-(-counts_P // np.maximum(devices_P, 1))))
  # Each device's place among those of its process.
  place_S = np.array(
    [np.sum(process_S[:s] == p) for s, p in enumerate(process_S)]
  )
  before_P = np.cumsum(counts_P) - counts_P
  first_S = before_P[process_S] + place_S * size
  left_S = before_P[process_S] + counts_P[process_S] - first_S
  count_S = np.clip(left_S, 0, size)
  return np.where(count_S, first_S, 0), count_S, size


def _by_blocks(find, size: int, *arrays) -> tuple[np.ndarray, np.ndarray]:
  """`find` of blocks of queries, all of one shape, so that it compiles once.

  The last block reaches back, and only its end is new.
  """
  Q = len(arrays[0])
  size = min(size, Q)
  parts = []
  for start in range(0, Q, size):
    first = min(start, Q - size)
    score_BK, ids_BK = find(*(x[first : first + size] for x in arrays))
    new = slice(start - first, None)
    parts.append((np.asarray(ids_BK)[new], np.asarray(score_BK)[new]))
  ids, scores = zip(*parts, strict=True)
  return np.concatenate(ids).astype(np.int64), np.concatenate(scores)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _nearest(
  mesh, k, recall, cosine, query_Qd, rows_RD, norm_R, first_S, count_S
):
  size = rows_RD.shape[0] // mesh.size
  over = PartitionSpec(mesh.axis_names)

  def best_of_shard(query_Qd, *shard):
    score_QK, ids_QK = _best_rows(
      query_Qd, *shard, min(k, size), recall, cosine
    )
    return score_QK[None], ids_QK[None]

  found = jax.shard_map(
    best_of_shard,
    mesh=mesh,
    in_specs=(PartitionSpec(), over, over, over, over),
    out_specs=over,
    check_vma=False,
  )(query_Qd, rows_RD, norm_R, first_S, count_S)
  whole = NamedSharding(mesh, PartitionSpec())
  score_QX, ids_QX = (
    jax.lax.with_sharding_constraint(
      jnp.moveaxis(x, 0, 1).reshape(len(query_Qd), -1), whole
    )
    for x in found
  )
  falling_QX, ids_QX = jax.lax.sort((-score_QX, ids_QX), num_keys=2)
  return -falling_QX[:, :k], ids_QX[:, :k]


def _best_rows(query_Qd, rows_RD, norm_R, first_1, count_1, k, recall, cosine):
  """The k best rows of a shard, block by block: (scores [Q, k], ids [Q, k])."""
  (Q, dim), R = query_Qd.shape, len(rows_RD)
  size = min(_ROWS, R)
  # Rounded, a query is not of length 1 any more, and scores would pass 1.
  query_Qd = query_Qd.astype(rows_RD.dtype)
  length_Q1 = jnp.ones((Q, 1))
  if cosine and rows_RD.dtype != jnp.float32:
    length_Q1 = jnp.linalg.norm(
      query_Qd.astype(jnp.float32), axis=1, keepdims=True
    )
    length_Q1 = jnp.where(length_Q1 == 0, 1, length_Q1)

  def merge_block(i, best):
    # The last block reaches back, and its first rows do not count again.
    start = jnp.minimum(i * size, R - size)
    rows_Bd = jax.lax.dynamic_slice(rows_RD, (start, 0), (size, dim))
    norm_B = jax.lax.dynamic_slice(norm_R, (start,), (size,))
    row_B = start + jnp.arange(size, dtype=jnp.int32)
    score_QB = _dot(query_Qd, rows_Bd) / (norm_B[None, :] * length_Q1)
    if cosine:
      score_QB = jnp.clip(score_QB, -1, 1)
    counts_B = (row_B >= i * size) & (row_B < count_1[0])
    score_QB = jnp.where(counts_B[None, :], score_QB, -jnp.inf)
    if recall is None:
      score_Qk, index_Qk = top_k(score_QB, min(k, size))
    else:
      score_Qk, index_Qk = jax.lax.approx_max_k(
        score_QB, min(k, size), recall_target=recall
      )
    # Earlier rows first, so that a stable top-k gives ties to the lower id.
    scores = jnp.concatenate([best[0], score_Qk], axis=1)
    ids = jnp.concatenate([best[1], row_B[index_Qk]], axis=1)
    score_Qk, index_Qk = jax.lax.top_k(scores, k)
    return score_Qk, jnp.take_along_axis(ids, index_Qk, axis=1)

  nothing = jnp.full((Q, k), -jnp.inf), jnp.zeros((Q, k), jnp.int32)
  score_Qk, row_Qk = jax.lax.fori_loop(0, -(-R // size), merge_block, nothing)
  return score_Qk, first_1[0] + row_Qk


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _rescore(
  mesh, k, cosine, query_Qd, ids_QK, rows_RD, norm_R, first_S, count_S
):
  over, whole = PartitionSpec(mesh.axis_names), PartitionSpec()

  def score_own(query_Qd, ids_QK, rows_RD, norm_R, first_1, count_1):
    row_QK = ids_QK - first_1[0]
    own_QK = (row_QK >= 0) & (row_QK < count_1[0])
    row_QK = jnp.where(own_QK, row_QK, 0)
    rows_QKd = rows_RD[:, : query_Qd.shape[1]][row_QK].astype(jnp.float32)
    # Not a matrix product: that rounds a row by its place in the block, and
    # equal rows would not tie. Reading the rows costs more than either.
    score_QK = (query_Qd[:, None, :] * rows_QKd).sum(-1) / norm_R[row_QK]
    if cosine:
      score_QK = jnp.clip(score_QK, -1, 1)
    return jax.lax.pmax(jnp.where(own_QK, score_QK, -jnp.inf), mesh.axis_names)

  score_QK = jax.shard_map(
    score_own,
    mesh=mesh,
    in_specs=(whole, whole, over, over, over, over),
    out_specs=whole,
  )(query_Qd, ids_QK, rows_RD, norm_R, first_S, count_S)
  score_Qk, index_Qk = jax.lax.top_k(score_QK, k)
  return score_Qk, jnp.take_along_axis(ids_QK, index_Qk, axis=1)


def top_k(score_QB: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`lax.top_k`, ties included, by way of the maxima of groups.

  What is among the first k stands in one of the k groups of the best maxima,
  since any group before its own holds something before it.
  """
  Q, B = score_QB.shape
  if B % _GROUP or 2 * k * _GROUP > B:
    return jax.lax.top_k(score_QB, k)
  maximum_QG = score_QB.reshape(Q, B // _GROUP, _GROUP).max(-1)
  # Groups in the order of their rows, for the ties.
  group_Qk = jnp.sort(jax.lax.top_k(maximum_QG, k)[1], axis=1)
  within = jnp.arange(_GROUP, dtype=group_Qk.dtype)
  index_QX = (_GROUP * group_Qk[:, :, None] + within[None, None]).reshape(Q, -1)
  score_QX = jnp.take_along_axis(score_QB, index_QX, axis=1)
  score_Qk, best_Qk = jax.lax.top_k(score_QX, k)
  return score_Qk, jnp.take_along_axis(index_QX, best_Qk, axis=1)


def _dot(query_Qd, rows_Bd):
  """float32 [Q, B]; rows in bfloat16 are multiplied in it."""
  return jnp.matmul(
    query_Qd,
    rows_Bd.T,
    precision='highest',
    preferred_element_type=jnp.float32,
  )


@functools.partial(jax.jit, static_argnums=1)
def _norms(rows_RD: jax.Array, dim: int) -> Any:
  norm_R = jnp.linalg.norm(rows_RD[:, :dim].astype(jnp.float32), axis=1)
  return jnp.where(norm_R < inputs.SHORTEST, inputs.NO_DIRECTION, norm_R)
