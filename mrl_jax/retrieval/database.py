"""Embeddings on the host, and the norms of their prefixes."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.cpu import rerank
from mrl_jax.retrieval.cpu.rerank import Found

# Embeddings at least this wide get norms at 1/64 and 1/16 of their width, too,
# by which an exact search bounds the scores of rows.
_WIDE = 512
# Bytes of rows worked on at a time.
BLOCK_BYTES = 64 << 20
_DTYPE = checks.dtype('bfloat16', 'float16', 'float32', 'float64')
# A row's id has 32 bits while it is sorted.
_MOST_ROWS = 1 << 32


@dataclasses.dataclass(frozen=True)
class Database:
  """One copy of the embeddings, and the norms of their prefixes.

  Attributes:
    embedding_MD: an array, or a `np.memmap`, which stays on disk.
    norms: norm_M of the prefixes by width; `inputs.NO_DIRECTION` for a prefix
      shorter than `inputs.SHORTEST`, which so scores 0.
    dtype: the dtype that queries must have.
  """

  embedding_MD: np.ndarray
  norms: dict[int, np.ndarray]
  dtype: np.dtype

  @property
  def shape(self) -> tuple[int, int]:
    return self.embedding_MD.shape

  @property
  def row_bytes(self) -> int:
    return self.shape[1] * self.embedding_MD.dtype.itemsize

  def norm_M(self, dim: int) -> np.ndarray:
    """The norms at width `dim`, computed now if it was not prepared."""
    if dim not in self.norms:
      self.norms.update(_prefix_norms(self.embedding_MD, (dim,)))
    return self.norms[dim]

  def nearest(
    self,
    query_Qd: np.ndarray,
    k: int,
    *,
    cosine: bool,
    recall: None = None,
  ) -> Found:
    """The k best rows at the queries' width; ties go to the lower id."""
    if recall is not None:
      raise ValueError(f'recall {recall}: needs a database prepared on a mesh')
    if cosine:
      self.norm_M(query_Qd.shape[1])
    return exact.nearest(
      query_Qd, self.embedding_MD, self.norms, k, cosine=cosine
    )

  def rescore(
    self, query_Qd: np.ndarray, ids_QK: np.ndarray, k: int, *, cosine: bool
  ) -> Found:
    """The k best of the rows `ids_QK`, which may hold -1 for none."""
    if cosine:
      self.norm_M(query_Qd.shape[1])
    return rerank.rescore(
      query_Qd, self.embedding_MD, self.norms, ids_QK, k, cosine=cosine
    )


def host_database(
  database_MD: np.ndarray | jax.Array | Database,
  dims: Sequence[int] | None = None,
  *,
  dtype: str | None = None,
) -> Database:
  """A database on the host, or the one given; see `prepare`."""
  if isinstance(database_MD, Database):
    return database_MD
  database_MD = checks.as_floats('database', database_MD)
  if database_MD.ndim != 2 or not database_MD.size:
    raise ValueError(
      f'database of shape {database_MD.shape}: must be [M, D], M and D at '
      'least 1'
    )
  M, width = database_MD.shape
  if M > _MOST_ROWS:
    raise ValueError(f'database of {M} rows: must be at most {_MOST_ROWS}')
  dims = nesting.validate((width,) if dims is None else dims, width)
  original = database_MD.dtype
  try:
    stored = original if dtype is None else _DTYPE('dtype', dtype)
  except ValueError as error:
    raise ValueError(
      f'{error}; codes of int8 and of single bits are made by '
      'retrieval.quantized.quantize'
    ) from None
  if stored != original:
    with np.errstate(over='ignore'):  # Infinity is refused with the row's name.
      database_MD = database_MD.astype(stored)
  bounding = (width // 64, width // 16) if width >= _WIDE else ()
  dims = tuple(sorted({*dims, *bounding, width}))
  norms = _prefix_norms(database_MD, dims)
  return Database(database_MD, norms, original)


@jax.jit(static_argnames='dims')
def block_norms(rows_BD: jax.Array, *, dims: tuple[int, ...]) -> jax.Array:
  """Norms [B, G] of the prefixes, from the sums of squares between widths."""
  squares = [
    jnp.square(rows_BD[:, start:end].astype(jnp.float32)).sum(1)
    for start, end in zip((0, *dims), dims, strict=False)
  ]
  return jnp.sqrt(jnp.cumsum(jnp.stack(squares, axis=1), axis=1))


def _prefix_norms(
  embedding_MD: np.ndarray, dims: tuple[int, ...]
) -> dict[int, np.ndarray]:
  forks.check()
  M, D = embedding_MD.shape
  size = max(1, BLOCK_BYTES // (4 * D))
  blocks = []
  for start in range(0, M, size):
    norm_BG = block_norms(embedding_MD[start : start + size], dims=dims)
    if dims[-1] == D:
      check_norms(norm_BG[:, -1], 'database', start)
    short_BG = norm_BG < inputs.SHORTEST
    blocks.append(jnp.where(short_BG, inputs.NO_DIRECTION, norm_BG))
  norm_GM = np.ascontiguousarray(np.concatenate(blocks).T)
  return dict(zip(dims, norm_GM, strict=True))


def queries(query_QD: Any, database: Any, widest: int | None) -> np.ndarray:
  """Queries as wide as the database, or cut to the widest prefix asked for.

  Lists, tensors and columns are converted. Raises ValueError for other widths,
  another dtype than the database's, or a query that `prepare` would refuse as a
  row.
  """
  width, dtype = database.shape[1], database.dtype
  widest = widest or width
  query_QD = checks.as_floats('queries', query_QD, like=dtype)
  shape = query_QD.shape
  if query_QD.ndim != 2 or not shape[0] or shape[1] not in (width, widest):
    cut = '' if widest == width else f', or cut to [Q, {widest}]'
    hint = '; of one query give query[None]' if query_QD.ndim == 1 else ''
    raise ValueError(
      f'queries of shape {shape} for a database of width {width}: must be '
      f'[Q, {width}], Q at least 1{cut}{hint}'
    )
  if query_QD.dtype != dtype:
    raise ValueError(
      f'queries of {query_QD.dtype} for a database of {dtype}: must be the same'
    )
  forks.check()
  norm_Q1 = block_norms(query_QD, dims=(shape[1],))
  check_norms(norm_Q1[:, 0], 'queries')
  return query_QD


def check_norms(norm_N: jax.Array, name: str, first: int = 0) -> None:
  """Raises ValueError for a row that is not finite, too short or too long.

  `first` is the number of the first row.
  """
  norm_N = np.asarray(norm_N)
  right_N = np.isfinite(norm_N) & (norm_N >= inputs.SHORTEST)
  if not right_N.all():
    row = right_N.argmin()
    fault = 'not finite, or its length is no float32'
    if norm_N[row] < inputs.SHORTEST:
      fault = f'all zero, or its length is below {inputs.SHORTEST}'
    raise ValueError(f'row {first + row} of the {name} is {fault}')
