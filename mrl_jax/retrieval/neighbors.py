"""Exact, adaptive and funnel search over one copy of nested embeddings."""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval.database import Database

# Queries scored at a time, against `database.BLOCK` rows; and the bytes that
# the candidates gathered for a block of queries may take.
_QUERY_BLOCK = 512
_GATHER_BYTES = 64 << 20
# Scores whose maximum stands for them while the top k are looked for.
_GROUP = 32


class Neighbors(NamedTuple):
  """The nearest rows of each query, best first; ties go to the lower id.

  Ties are those of the float32 scores. A matrix product may round two equal
  rows differently in the last bit, by their place in it.

  Attributes:
    ids_QK: int64 rows of the database.
    scores_QK: float32 cosine similarities at the last width that scored them.
  """

  ids_QK: np.ndarray
  scores_QK: np.ndarray


def search(
  query_QD: np.ndarray | jax.Array,
  database_MD: np.ndarray | jax.Array | Database,
  k: int,
  *,
  dim: int | None = None,
) -> Neighbors:
  """The k rows nearest to each query by the cosine of their prefixes.

  Args:
    query_QD: float queries.
    database_MD: float rows, or a prepared `Database`.
    k: neighbours, at most M.
    dim: width of the prefix; None: all of D.

  Raises:
    ValueError: k outside [1, M], dim outside [1, D], widths that differ, or a
      query with NaN or infinity.
  """
  query_QD, database = _check(query_QD, database_MD)
  M, D = database.embedding_MD.shape
  dim = D if dim is None else dim
  nesting.validate((dim,), D)
  if not 1 <= k <= M:
    raise ValueError(f'k {k}: must be in [1, {M}], the rows of the database')
  norm_M = database.norm_M(dim)
  size = min(database_lib.BLOCK, M)
  blocks = _query_blocks(query_QD, _QUERY_BLOCK)
  best = [
    (
      jnp.full((len(query_BD), k), -jnp.inf),
      jnp.zeros((len(query_BD), k), jnp.int32),
    )
    for _, query_BD in blocks
  ]
  for start in range(0, M, size):
    # The last block reaches back, so that all are of one shape.
    first = min(start, M - size)
    rows_BD, first_row = database.embedding_MD, first
    if isinstance(rows_BD, np.memmap):
      # Each row is read once, and only as far as the prefix goes.
      rows_BD, first_row = rows_BD[first : first + size, :dim], 0
    for i, (_, query_BD) in enumerate(blocks):
      best[i] = _score_block(
        query_BD, rows_BD, norm_M, best[i], first_row, first, start,
        dim=dim, k=k, size=size,
      )  # fmt: skip
    # So that blocks do not pile up on the way to the device.
    jax.block_until_ready(best)
  return _gather_blocks(blocks, best)


def adaptive(
  query_QD: np.ndarray | jax.Array,
  database_MD: np.ndarray | jax.Array | Database,
  k: int,
  *,
  shortlist_dim: int,
  rerank_dim: int,
  shortlist: int,
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
  )


def funnel(
  query_QD: np.ndarray | jax.Array,
  database_MD: np.ndarray | jax.Array | Database,
  *,
  dims: Sequence[int],
  shortlists: Sequence[int],
) -> Neighbors:
  """Funnel retrieval (arXiv 2205.13147, section 4.3.1).

  `dims[0]` searches all rows and keeps `shortlists[0]`; `dims[i]` scores those
  again and keeps `shortlists[i]`; the last is the k of the result. No step
  changes an earlier one's list.

  Raises:
    ValueError: lengths that differ, dims that do not increase, shortlists that
      grow, or what `search` refuses.
  """
  query_QD, database = _check(query_QD, database_MD)
  dims = nesting.validate(dims, database.embedding_MD.shape[1])
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
  neighbors = search(query_QD, database, shortlists[0], dim=dims[0])
  for dim, k in zip(dims[1:], shortlists[1:], strict=True):
    neighbors = _rerank(query_QD, database, neighbors.ids_QK, dim=dim, k=k)
  return neighbors


def _rerank(query_QD, database, ids_QK, *, dim, k):
  # In the order of the rows: reads memory forwards, and lets a stable top-k
  # give ties to the lower id.
  ids_QK = np.sort(ids_QK, axis=1)
  norm_M = database.norm_M(dim)

  blocks = _query_blocks(
    query_QD,
    min(_QUERY_BLOCK, max(1, _GATHER_BYTES // (ids_QK.shape[1] * dim * 4))),
    ids_QK.astype(np.int32),
  )
  results = []
  for _, query_BD, ids_BK in blocks:
    rows_MD = database.embedding_MD
    if isinstance(rows_MD, np.memmap):
      rows_BKd = jnp.asarray(rows_MD[ids_BK, :dim])
    else:
      rows_BKd = _gather(rows_MD, ids_BK, dim=dim)
    scored = _score_candidates(query_BD, rows_BKd, norm_M, ids_BK, dim=dim, k=k)
    results.append(jax.block_until_ready(scored))
  return _gather_blocks(blocks, results)


@functools.partial(jax.jit, static_argnames=('dim', 'k', 'size'))
def _score_block(
  query_QD, rows_MD, norm_M, best, first_row, first, fresh, *, dim, k, size
):
  """Merges the rows [first_row, first_row + size) into the best so far.

  `first` is the id of the first of them; those below `fresh` were scored
  before and do not count again.
  """
  rows_Bd = jax.lax.dynamic_slice(rows_MD, (first_row, 0), (size, dim))
  norm_B = jax.lax.dynamic_slice(norm_M, (first,), (size,))
  id_B = first + jnp.arange(size, dtype=jnp.int32)
  score_QB = _dot(_normalize(query_QD, dim), rows_Bd.T) / norm_B[None, :]
  score_QB = jnp.where((id_B >= fresh)[None, :], score_QB, -jnp.inf)
  score_Qk, index_Qk = _top_k(score_QB, min(k, size))
  # Earlier rows first, so that a stable top-k gives ties to the lower id.
  scores = jnp.concatenate([best[0], score_Qk], axis=1)
  ids = jnp.concatenate([best[1], id_B[index_Qk]], axis=1)
  score_Qk, index_Qk = jax.lax.top_k(scores, k)
  return score_Qk, jnp.take_along_axis(ids, index_Qk, axis=1)


def _top_k(score_QB: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
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


@functools.partial(jax.jit, static_argnames='dim')
def _gather(rows_MD, ids_QK, *, dim):
  return rows_MD[:, :dim][ids_QK]


@functools.partial(jax.jit, static_argnames=('dim', 'k'))
def _score_candidates(query_QD, rows_QKd, norm_M, ids_QK, *, dim, k):
  query_Qd = _normalize(query_QD, dim)
  # Not a matrix product: that rounds a row by its place in the block, and equal
  # rows would not tie. Reading the rows costs more than either.
  score_QK = (query_Qd[:, None, :] * rows_QKd).sum(-1) / norm_M[ids_QK]
  score_Qk, index_Qk = jax.lax.top_k(score_QK, k)
  return score_Qk, jnp.take_along_axis(ids_QK, index_Qk, axis=1)


@functools.partial(jax.jit, static_argnames='dim')
def _normalize(query_QD, dim):
  query_Qd = query_QD[:, :dim].astype(jnp.float32)
  norm_Q1 = jnp.linalg.norm(query_Qd, axis=1, keepdims=True)
  return query_Qd / jnp.where(norm_Q1 == 0, 1, norm_Q1)


def _dot(a, b):
  return jnp.matmul(a, b, precision='highest')


def _check(query_QD, database_MD) -> tuple[np.ndarray | jax.Array, Database]:
  database = database_MD
  if not isinstance(database, Database):
    database = database_lib.prepare(database_MD)
  width = database.embedding_MD.shape[1]
  if query_QD.ndim != 2 or not len(query_QD) or query_QD.shape[1] != width:
    raise ValueError(
      f'queries of shape {query_QD.shape} for a database of width {width}: '
      f'must be [Q, {width}], Q at least 1'
    )
  finite_Q = np.isfinite(np.asarray(query_QD)).all(1)
  if not finite_Q.all():
    raise ValueError(f'row {finite_Q.argmin()} of the queries is not finite')
  return query_QD, database


def _query_blocks(query_QD, size: int, *others) -> list[tuple]:
  """(rows that are new, queries, *others) blocks of one shape.

  The last block reaches back, and only its end is new.
  """
  Q = len(query_QD)
  size = min(size, Q)
  blocks = []
  for start in range(0, Q, size):
    first = min(start, Q - size)
    rows = [np.asarray(x[first : first + size]) for x in (query_QD, *others)]
    blocks.append((slice(start - first, None), *rows))
  return blocks


def _gather_blocks(blocks, results) -> Neighbors:
  """Joins the (scores, ids) of each block."""
  parts = [
    (np.asarray(ids_BK)[new], np.asarray(score_BK)[new])
    for (new, *_), (score_BK, ids_BK) in zip(blocks, results, strict=True)
  ]
  ids, scores = zip(*parts, strict=True)
  return Neighbors(np.concatenate(ids).astype(np.int64), np.concatenate(scores))
