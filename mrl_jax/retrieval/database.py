"""Embeddings on the host, and the norms of their prefixes."""

from collections.abc import Sequence
import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cpu import bounds
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.cpu import stored
from mrl_jax.retrieval.cpu.best import Found
from mrl_jax.retrieval.rotation import Rotation

# Numbers in a database that is searched in one way only.
_SMALL = 1 << 20
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
    tile_NWT: a copy of the first dims, see `stored.tiles`; None: there is none.
    tails: the norms of what lies beyond the levels of a width, float32 [L, M].
    views: what was made of these for a width and a metric, see `stored.rows`.
    file: the file of a memmap, and when it was written; None: rows in memory.
    rotation: of rows and queries beyond some dim; None: they are as given.
  """

  embedding_MD: np.ndarray
  norms: dict[int, np.ndarray]
  dtype: np.dtype
  tile_NWT: np.ndarray | None = None
  tails: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  views: dict[tuple[int, bool], Any] = dataclasses.field(default_factory=dict)
  file: tuple[str, int, int] | None = None
  rotation: Rotation | None = None

  @property
  def shape(self) -> tuple[int, int]:
    return self.embedding_MD.shape

  @property
  def row_bytes(self) -> int:
    return self.shape[1] * self.embedding_MD.dtype.itemsize

  def norm_M(self, dim: int) -> np.ndarray:
    """The norms at width `dim`, computed now if it was not prepared."""
    if dim not in self.norms:
      self.norms.update(_norms(self.embedding_MD, (dim,), check=False)[0])
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
    return exact.nearest(self._ready(query_Qd), self, k, cosine=cosine)

  def rescore(
    self, query_Qd: np.ndarray, ids_QK: np.ndarray, k: int, *, cosine: bool
  ) -> Found:
    """The k best of the rows `ids_QK`, which may hold -1 for none."""
    return exact.rescore(self._ready(query_Qd), self, ids_QK, k, cosine=cosine)

  def _ready(self, query_Qd: np.ndarray) -> np.ndarray:
    """Rotates queries as the rows; raises ValueError for a changed file."""
    if self.file is not None and _stamp(self.embedding_MD) != self.file:
      raise ValueError(
        f'{self.file[0]} was changed since it was prepared: prepare it again'
      )
    if self.rotation is None:
      return query_Qd
    return self.rotation(query_Qd, np.float32)


def host_database(
  database_MD: np.ndarray | jax.Array | Database,
  dims: Sequence[int] | None = None,
  *,
  dtype: str | None = None,
) -> Database:
  """A database on the host, or the one given; see `prepare`."""
  if isinstance(database_MD, Database):
    if database_MD.rotation is not None:
      raise ValueError('database with a rotation: codes take rows as they are')
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
    kept = original if dtype is None else _DTYPE('dtype', dtype)
  except ValueError as error:
    raise ValueError(
      f'{error}; codes of int8 and of single bits are made by '
      'retrieval.quantized.quantize'
    ) from None
  if kept != original:
    with np.errstate(over='ignore'):  # Infinity is refused with the row's name.
      database_MD = database_MD.astype(kept)
  _load_loops(database_MD.size > _SMALL)
  return _database(database_MD, dims, original)


def _database(
  database_MD: np.ndarray, dims: tuple[int, ...], dtype: np.dtype
) -> Database:
  width = database_MD.shape[1]
  norms, tails = _norms(database_MD, tuple(sorted({*dims, width})))
  return Database(
    database_MD, norms, dtype, stored.tiles(database_MD), tails,
    file=_stamp(database_MD),
  )  # fmt: skip


@functools.cache
def _load_loops(all_ways: bool) -> None:
  rng = np.random.default_rng(0)
  row_MD = rng.standard_normal((4096 if all_ways else 64, 128), np.float32)
  database = _database(row_MD, (1, 128), row_MD.dtype)
  exact.load(database, all_ways=all_ways)


def _norms(
  embedding_MD: np.ndarray, dims: tuple[int, ...], *, check: bool = True
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
  """Norms by width, and the tails of the last; `check` refuses bad rows."""
  forks.check()
  level_L = bounds.levels(dims[-1])
  width_L = np.unique([*level_L, *dims])
  square_LM, tail_LM = stored.squares_and_tails(embedding_MD, width_L)
  norms = {}
  for dim in dims:
    norm_M = np.sqrt(square_LM[np.searchsorted(width_L, dim)])
    if check and dim == embedding_MD.shape[1]:
      check_norms(norm_M, 'database')
    norm_M[norm_M < inputs.SHORTEST] = inputs.NO_DIRECTION
    norms[dim] = norm_M
  tail_LM = tail_LM[np.searchsorted(width_L, level_L)]
  return norms, {dims[-1]: tail_LM}


def _stamp(rows_MD: np.ndarray) -> tuple[str, int, int] | None:
  """The file of a memmap, its size and when it was written; None: no file."""
  name = getattr(rows_MD, 'filename', None)
  if not isinstance(rows_MD, np.memmap) or name is None:
    return None
  status = os.stat(name)
  return str(name), status.st_size, status.st_mtime_ns


def queries(query_QD: Any, database: Any, widest: int | None) -> np.ndarray:
  """Queries as wide as the database, or cut to the widest prefix asked for.

  Lists, tensors and columns are converted. Raises ValueError for other widths,
  another dtype than the database's, or a query that `prepare` would refuse as a
  row.
  """
  width, dtype = database.shape[1], database.dtype
  widest = widest or width
  if type(query_QD) is not np.ndarray or query_QD.dtype != dtype:
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
  row_QD = query_QD
  if dtype != np.float32 or not query_QD.flags.c_contiguous:
    with np.errstate(over='ignore', invalid='ignore'):
      row_QD = np.ascontiguousarray(query_QD, np.float32)
  if prefixes.first_bad(inputs.read_only(row_QD)) >= 0:
    with np.errstate(over='ignore', invalid='ignore'):
      norm_Q = np.sqrt(np.einsum('QD,QD->Q', row_QD, row_QD))
    check_norms(norm_Q, 'queries')
  return query_QD


def check_norms(norm_N: np.ndarray, name: str) -> None:
  """Raises ValueError for a row that is not finite, too short or too long."""
  right_N = np.isfinite(norm_N) & (norm_N >= inputs.SHORTEST)
  if not right_N.all():
    row = right_N.argmin()
    fault = 'not finite, or its length is no float32'
    if norm_N[row] < inputs.SHORTEST:
      fault = f'all zero, or its length is below {inputs.SHORTEST}'
    raise ValueError(f'row {row} of the {name} is {fault}')
