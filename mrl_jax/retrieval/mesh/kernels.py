"""The jitted search over the devices of a mesh.

Each device finds the best of its own rows, and the small lists are merged.
"""

import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from mrl_jax.retrieval import inputs

# Rows scored at a time.
_ROWS = 32768
# Scores represented by their maximum while the top k are looked for.
_GROUP = 32


class Shards(NamedTuple):
  """Rows split over S devices, R / S each, the last of them padding.

  Attributes:
    rows_RD: the rows of all shards.
    norm_R: divisors of their scores.
    first_S: the id of each shard's first row.
    count_S: the number of its rows that are no padding.
  """

  rows_RD: jax.Array
  norm_R: jax.Array
  first_S: jax.Array
  count_S: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def nearest(
  mesh: jax.sharding.Mesh,
  k: int,
  recall: float | None,
  cosine: bool,
  query_Qd: jax.Array,
  shards: Shards,
) -> tuple[jax.Array, jax.Array]:
  """(scores [Q, k], ids [Q, k]) of the best rows of all shards."""
  size = len(shards.rows_RD) // mesh.size
  over = PartitionSpec(mesh.axis_names)

  def best_of_shard(query_Qd, shard):
    score_QK, ids_QK = _best_rows(query_Qd, shard, min(k, size), recall, cosine)
    return score_QK[None], ids_QK[None]

  found = jax.shard_map(
    best_of_shard,
    mesh=mesh,
    in_specs=(PartitionSpec(), over),
    out_specs=over,
    check_vma=False,
  )(query_Qd, shards)
  whole = NamedSharding(mesh, PartitionSpec())
  score_QX, ids_QX = (
    jax.lax.with_sharding_constraint(
      jnp.moveaxis(x, 0, 1).reshape(len(query_Qd), -1), whole
    )
    for x in found
  )
  falling_QX, ids_QX = jax.lax.sort((-score_QX, ids_QX), num_keys=2)
  return -falling_QX[:, :k], ids_QX[:, :k]


def _best_rows(query_Qd, shard, k, recall, cosine):
  """(scores [Q, k], ids [Q, k]) of the best rows of one shard, by blocks."""
  rows_RD, norm_R, first_1, count_1 = shard
  (Q, dim), R = query_Qd.shape, len(rows_RD)
  size = min(_ROWS, R)
  # A rounded query is no longer of length 1, and scores would exceed 1.
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
def rescore(
  mesh: jax.sharding.Mesh,
  k: int,
  cosine: bool,
  query_Qd: jax.Array,
  ids_QK: jax.Array,
  shards: Shards,
) -> tuple[jax.Array, jax.Array]:
  """(scores [Q, k], ids [Q, k]), the best of the rows `ids_QK`."""
  over, whole = PartitionSpec(mesh.axis_names), PartitionSpec()

  def score_own(query_Qd, ids_QK, shard):
    rows_RD, norm_R, first_1, count_1 = shard
    row_QK = ids_QK - first_1[0]
    own_QK = (row_QK >= 0) & (row_QK < count_1[0])
    row_QK = jnp.where(own_QK, row_QK, 0)
    rows_QKd = rows_RD[:, : query_Qd.shape[1]][row_QK].astype(jnp.float32)
    # No matrix product, whose rounding depends on a row's position in the
    # block: equal rows would not tie. Reading the rows costs more than either.
    score_QK = (query_Qd[:, None, :] * rows_QKd).sum(-1) / norm_R[row_QK]
    if cosine:
      score_QK = jnp.clip(score_QK, -1, 1)
    return jax.lax.pmax(jnp.where(own_QK, score_QK, -jnp.inf), mesh.axis_names)

  score_QK = jax.shard_map(
    score_own,
    mesh=mesh,
    in_specs=(whole, whole, over),
    out_specs=whole,
  )(query_Qd, ids_QK, shards)
  score_Qk, index_Qk = jax.lax.top_k(score_QK, k)
  return score_Qk, jnp.take_along_axis(ids_QK, index_Qk, axis=1)


def top_k(score_QB: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """The same as `lax.top_k`, ties included, but faster by maxima of groups.

  The first k scores are in the k groups with the best maxima, since each group
  that is ranked higher holds a score that is ranked higher.
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
  """Dot products, float32 [Q, B]; bfloat16 rows are multiplied in bfloat16."""
  return jnp.matmul(
    query_Qd,
    rows_Bd.T,
    precision='highest',
    preferred_element_type=jnp.float32,
  )


@functools.partial(jax.jit, static_argnums=1)
def norms(rows_RD: jax.Array, dim: int) -> jax.Array:
  """The norms of prefixes, `inputs.NO_DIRECTION` for those too short."""
  norm_R = jnp.linalg.norm(rows_RD[:, :dim].astype(jnp.float32), axis=1)
  return jnp.where(norm_R < inputs.SHORTEST, inputs.NO_DIRECTION, norm_R)
