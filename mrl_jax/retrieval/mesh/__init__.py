"""Search by JAX, with the rows split over the devices of a mesh.

With several processes each holds its share of the rows.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mrl_jax.retrieval.cpu.best import Found
from mrl_jax.retrieval.database import host_database
from mrl_jax.retrieval.mesh import kernels
from mrl_jax.retrieval.mesh.kernels import Shards

# Queries scored at a time; and bytes of the candidate rows gathered for them.
_QUERIES, _GATHER_BYTES = 512, 64 << 20
_FEWEST_QUERIES = 8
# Ids are int32 on devices.
_MOST_ROWS = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class DeviceDatabase:
  """One copy of the embeddings over the devices of a mesh; made by `place`.

  Attributes:
    mesh: the mesh of S devices.
    embedding_RD, first_S, count_S: the rows, as in `kernels.Shards`.
    norms: norm_R of the prefixes by width, as in `Database`.
    shape: (M, D).
    dtype: the dtype that queries must have.
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

  def nearest(
    self,
    query_Qd: np.ndarray,
    k: int,
    *,
    cosine: bool,
    recall: float | None = None,
  ) -> Found:
    """The k best rows at the queries' width; ties go to the lower id.

    `recall` is that of `jax.lax.approx_max_k`; None: exact.
    """
    find = functools.partial(kernels.nearest, self.mesh, k, recall, cosine)
    # The caller may have set a mesh of other axes.
    with jax.set_mesh(self.mesh):
      shards = self._shards(query_Qd.shape[1], cosine)
      found = _by_blocks(lambda x: find(x, shards), _QUERIES, query_Qd)
    return Found(*found, self.shape[0] * query_Qd.shape[1])

  def rescore(
    self, query_Qd: np.ndarray, ids_QK: np.ndarray, k: int, *, cosine: bool
  ) -> Found:
    """The k best of the rows `ids_QK`, which may hold -1 for none."""
    dim, K = query_Qd.shape[1], ids_QK.shape[1]
    find = functools.partial(kernels.rescore, self.mesh, k, cosine)
    size = min(_QUERIES, max(1, _GATHER_BYTES // (4 * dim * K)))
    # In the order of the rows, for the ties.
    ids_QK = np.sort(ids_QK, axis=1).astype(np.int32)
    with jax.set_mesh(self.mesh):
      shards = self._shards(dim, cosine)
      found = _by_blocks(
        lambda x, ids: find(x, ids, shards), size, query_Qd, ids_QK
      )
    return Found(*found, K * dim)

  def _shards(self, dim: int, cosine: bool) -> Shards:
    if dim not in self.norms:
      self.norms[dim] = kernels.norms(self.embedding_RD, dim)
    norm_R = self.norms[dim] if cosine else jnp.ones_like(self.norms[dim])
    return Shards(self.embedding_RD, norm_R, self.first_S, self.count_S)


def place(
  database_MD: np.ndarray | jax.Array,
  mesh: jax.sharding.Mesh,
  dims: Sequence[int] | None = None,
  *,
  dtype: str | None = None,
) -> DeviceDatabase:
  """Splits the rows over all devices of the mesh.

  If they belong to several processes, each passes its own rows; ids number
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
    """An array over the mesh of this process's part, padded to `size`."""

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
  """The mesh with automatic axes; those of `jax.make_mesh` are explicit."""
  if not isinstance(mesh, jax.sharding.Mesh):
    raise ValueError(f'mesh {mesh!r}: must be a jax.sharding.Mesh')
  types = (AxisType.Auto,) * len(mesh.axis_names)
  return jax.sharding.Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def _layout(mesh, counts_P) -> tuple[np.ndarray, np.ndarray, int]:
  """First id and number of rows of each shard, and the room of all."""
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
  """(ids, scores) found for blocks of `size` queries, or of a power of two.

  Fewer than `size` are filled up with copies of the last, so that few programs
  are compiled. The last block overlaps the one before; its end alone is kept.
  """
  Q = len(arrays[0])
  size = min(size, max(_FEWEST_QUERIES, 1 << (Q - 1).bit_length()))
  padding = ((0, max(0, size - Q)), (0, 0))
  arrays = [np.pad(x, padding, mode='edge') for x in arrays]
  parts = []
  for start in range(0, Q, size):
    first = min(start, len(arrays[0]) - size)
    score_BK, ids_BK = find(*(x[first : first + size] for x in arrays))
    new = slice(start - first, None)
    parts.append((np.asarray(ids_BK)[new], np.asarray(score_BK)[new]))
  ids, scores = (np.concatenate(x)[:Q] for x in zip(*parts, strict=True))
  return ids.astype(np.int64), scores
