"""One stored copy of the embeddings, and what every width needs beside it."""

from collections.abc import Sequence
import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import inputs

# Embeddings at least this wide get norms of 1/64 and 1/16 of their width, too,
# by which an exact search leaves rows out.
_WIDE = 512
# Bytes of rows worked on at a time.
BLOCK_BYTES = 64 << 20
# What rows may be kept in; codes of fewer bits need a scale.
_DTYPES = ('bfloat16', 'float16', 'float32', 'float64')
# A row's id has 32 bits while it is sorted.
_MOST_ROWS = 1 << 32


@dataclasses.dataclass(frozen=True)
class Database:
  """One copy of the embeddings, and the norms of their prefixes.

  Attributes:
    embedding_MD: an array, or a `np.memmap`, which stays on disk.
    norms: norm_M of the prefix of each prepared width; NO_DIRECTION where it
      is shorter than SHORTEST (see `inputs`), so that such a row scores 0.
    dtype: that queries must have, the database's own.
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


@checks.takes(
  database_MD=checks.floats('MD'),
  dims=checks.wholes(),
  dtype=checks.dtype('float32', 'bfloat16', 'float16', 'float64'),
)
def host_database(
  database_MD: np.ndarray | jax.Array,
  dims: Sequence[int] | None = None,
  *,
  dtype: str | None = None,
) -> Database:
  """A database on the host, as `neighbors.prepare` documents it."""
  database_MD = inputs.floats(database_MD, 'database')
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
  if dtype is not None and _stored(dtype) != original:
    with np.errstate(over='ignore'):  # Infinity is refused with the row's name.
      database_MD = database_MD.astype(_stored(dtype))
  bounding = (width // 64, width // 16) if width >= _WIDE else ()
  dims = tuple(sorted({*dims, *bounding, width}))
  norms = _prefix_norms(database_MD, dims)
  return Database(database_MD, norms, original)


@jax.jit(static_argnames='dims')
def block_norms(rows_BD: jax.Array, *, dims: tuple[int, ...]) -> jax.Array:
  """Norms [B, G] at all widths in one reading, from segments' squares."""
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


def _stored(dtype) -> np.dtype:
  try:
    stored = np.dtype(dtype)
  except TypeError:
    stored = None
  if stored is None or stored.name not in _DTYPES:
    raise ValueError(
      f'dtype {dtype!r}: must be one of {_DTYPES}; codes of int8 and of single '
      'bits are made by retrieval.quantized.quantize'
    )
  return stored


def check_queries(query_QD: np.ndarray) -> None:
  """Raises ValueError for a query that `prepare` would refuse as a row."""
  norm_Q1 = block_norms(query_QD, dims=(query_QD.shape[1],))
  check_norms(norm_Q1[:, 0], 'queries')


def check_norms(norm_N: jax.Array, name: str, first: int = 0) -> None:
  """Raises ValueError for a row whose direction float32 does not tell.

  `first` is the number of the first.
  """
  norm_N = np.asarray(norm_N)
  right_N = np.isfinite(norm_N) & (norm_N >= inputs.SHORTEST)
  if not right_N.all():
    row = right_N.argmin()
    fault = 'not finite, or its length is no float32'
    if norm_N[row] < inputs.SHORTEST:
      fault = f'all zero, or its length is below {inputs.SHORTEST}'
    raise ValueError(f'row {first + row} of the {name} is {fault}')
