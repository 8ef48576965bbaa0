"""One stored copy of the embeddings, and what every width needs beside it."""

from collections.abc import Sequence
import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import nesting

# Rows worked on at a time.
BLOCK = 32768


@dataclasses.dataclass(frozen=True)
class Database:
  """One copy of the embeddings, and the norms of their prefixes.

  Attributes:
    embedding_MD: on the device, or a `np.memmap`, which is read in blocks.
    norms: norm_M of the prefix of each prepared width; 1 where it is all zero,
      so that such a row scores 0.
  """

  embedding_MD: jax.Array | np.memmap
  norms: dict[int, jax.Array]

  def norm_M(self, dim: int) -> jax.Array:
    """The norms at width `dim`, computed now if it was not prepared."""
    if dim not in self.norms:
      self.norms.update(_prefix_norms(self.embedding_MD, (dim,)))
    return self.norms[dim]


def prepare(
  database_MD: np.ndarray | jax.Array, dims: Sequence[int] | None = None
) -> Database:
  """Makes a database that every search below takes in place of an array.

  Args:
    database_MD: float embeddings; a `np.memmap` stays on disk.
    dims: the widths to compute prefix norms for; None: the full one.

  Raises:
    ValueError: not two-dimensional, empty, dims that do not fit, or a row with
      NaN or infinity (its number is given).
  """
  if database_MD.ndim != 2 or not len(database_MD):
    raise ValueError(
      f'database of shape {database_MD.shape}: must be [M, D], M at least 1'
    )
  width = database_MD.shape[1]
  dims = nesting.validate((width,) if dims is None else dims, width)
  if not isinstance(database_MD, np.memmap):
    database_MD = jnp.asarray(database_MD)
  norms = _prefix_norms(database_MD, tuple(sorted({*dims, width})))
  finite_M = np.isfinite(np.asarray(norms[width]))
  if not finite_M.all():
    raise ValueError(f'row {finite_M.argmin()} of the database is not finite')
  return Database(database_MD, norms)


def _prefix_norms(
  embedding_MD: jax.Array | np.memmap, dims: tuple[int, ...]
) -> dict[int, jax.Array]:
  """Norms at all widths in one reading: running sums of segments' squares."""

  @jax.jit
  def norms_of(rows_BD):
    squares = [
      jnp.square(rows_BD[:, start:end].astype(jnp.float32)).sum(1)
      for start, end in zip((0, *dims), dims, strict=False)
    ]
    norm_BG = jnp.sqrt(jnp.cumsum(jnp.stack(squares, axis=1), axis=1))
    return jnp.where(norm_BG == 0, 1, norm_BG)

  blocks = [
    norms_of(embedding_MD[start : start + BLOCK])
    for start in range(0, len(embedding_MD), BLOCK)
  ]
  norm_MG = jnp.concatenate(blocks)
  return {dim: norm_MG[:, g] for g, dim in enumerate(dims)}
