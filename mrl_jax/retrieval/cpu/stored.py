"""The stored rows of a `Database`, as the loops of a search take them."""

from collections.abc import Iterator
import ctypes
import mmap
from typing import Any

import numpy as np

from mrl_jax.retrieval.cpu import bounds
from mrl_jax.retrieval.cpu import threads
from mrl_jax.retrieval.cpu.arguments import LANE
from mrl_jax.retrieval.cpu.arguments import Queries
from mrl_jax.retrieval.cpu.arguments import Rows
from mrl_jax.retrieval.cpu.arguments import TILE
from mrl_jax.retrieval.inputs import read_only

# Dims of a tile that narrow searches need, the most dims, and the largest share
# of a row that more than those needed take.
TILE_DIMS, _MOST_DIMS, _SHARE = 32, 128, 1 / 8
# Bytes of all tiles, above which there are none.
TILE_BYTES = 192 << 20
# Bytes of rows worked on at a time.
BLOCK_BYTES = 64 << 20
# The tails of rows that nothing bounds.
NONE_LB = np.zeros((16, 0), np.float32)


def is_file(database: Any) -> bool:
  return isinstance(database.embedding_MD, np.memmap)


def is_at_hand(database: Any) -> bool:
  """Whether the rows lie in memory as they are scored."""
  rows_MD = database.embedding_MD
  is_float32 = rows_MD.dtype == np.float32 and rows_MD.flags.c_contiguous
  return is_float32 and not is_file(database)


def queries(query_Qd: np.ndarray) -> Queries:
  """Queries, and the norms of what lies beyond each level."""
  query_Qd = read_only(query_Qd)
  level_L = bounds.levels(query_Qd.shape[1])
  return Queries(query_Qd, bounds.tails(query_Qd, level_L))


def rows(
  database: Any, dim: int, cosine: bool, *, bounded: bool = False
) -> Rows:
  """All rows at a width; without vectors unless they are at hand.

  Their tails are there if they are known already, or if `bounded`.
  """
  found = database.views.get((dim, cosine))
  if found is not None and (found.tail_LB.shape[1] or not bounded):
    return found
  tail_LM = database.tails.get(dim, NONE_LB)
  if bounded and not tail_LM.shape[1]:
    database.tails[dim] = tail_LM = squares_and_tails(
      database.embedding_MD, bounds.levels(dim)
    )[1]
  size_M = database.norm_M(dim)
  norm_M, limit = size_M, np.float32(1)
  if not cosine:
    norm_M, limit = np.ones_like(size_M), np.float32(np.inf)
  vector_MD = np.zeros((0, dim), np.float32)
  if is_at_hand(database):
    vector_MD = database.embedding_MD
  level_L = bounds.levels(dim)
  found = Rows(read_only(vector_MD), norm_M, size_M, tail_LM, level_L, limit, 0)
  database.views[dim, cosine] = found
  return found


def blocks(database: Any, dim: int, cosine: bool, most: int) -> Iterator[Rows]:
  """Yields the rows in blocks, read and converted one after the other."""
  every, rows_MD = rows(database, dim, cosine), database.embedding_MD
  size = max(1, min(most, BLOCK_BYTES // (4 * dim)))
  for first in range(0, len(rows_MD), size):
    part = slice(first, first + size)
    read_ahead(rows_MD, first, 2 * size)
    yield every._replace(
      vector_BD=read_only(
        np.ascontiguousarray(rows_MD[part, :dim], np.float32)
      ),
      norm_B=every.norm_B[part],
      size_B=every.size_B[part],
      tail_LB=NONE_LB,
      first=first,
    )


def read(database: Any, ids_K: np.ndarray, dim: int) -> np.ndarray:
  """Some rows, float32 [K, dim], read-only."""
  rows_Kd = database.embedding_MD[ids_K, :dim]
  return read_only(np.ascontiguousarray(rows_Kd, np.float32))


def squares_and_tails(
  rows_MD: np.ndarray, level_L: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The squared norms of the rows up to each level, and the norms beyond it.

  Both are float32 [L, M]; the first is that of level 0, which is 0.
  """
  square_LM = np.zeros((len(level_L) + 1, len(rows_MD)), np.float32)
  size = max(1, BLOCK_BYTES // (4 * int(level_L[-1])))
  for first in range(0, len(rows_MD), size):
    part = slice(first, first + size)
    read_ahead(rows_MD, first, 2 * size)
    row_Bd = np.ascontiguousarray(rows_MD[part, : level_L[-1]], np.float32)
    square_GB = np.empty((len(level_L) - 1, len(row_Bd)), np.float32)
    threads.run(
      lambda share, row_Bd=row_Bd, square_GB=square_GB: bounds.squares(
        read_only(row_Bd), level_L, square_GB, share.start, share.stop
      ),
      [(x,) for x in threads.split(len(row_Bd), threads.count())],
    )
    square_LM[1:-1, part] = square_GB
  tail_LM = np.sqrt(np.cumsum(square_LM[:0:-1], axis=0)[::-1])
  np.cumsum(square_LM, axis=0, out=square_LM)
  return square_LM[:-1], np.ascontiguousarray(tail_LM)


def tiles(rows_MD: np.ndarray) -> np.ndarray | None:
  """The first dims of all rows, in tiles [N, W, TILE] of zeros beyond.

  None if they would take too many bytes.
  """
  M, D = rows_MD.shape
  width = min(TILE_DIMS, -(-D // LANE) * LANE)
  if 4 * M * width > TILE_BYTES:
    return None
  most = min(_MOST_DIMS, _SHARE * D, TILE_BYTES / (4 * M))
  while 2 * width <= most:
    width *= 2
  tile_NWT = np.zeros((-(-M // TILE), width, TILE), np.float32)
  for n, tile_WT in enumerate(tile_NWT):
    part = slice(n * TILE, (n + 1) * TILE)
    row_Bd = rows_MD[part, :width]
    tile_WT[: row_Bd.shape[1], : len(row_Bd)] = row_Bd.T
  return tile_NWT


def read_ahead(rows_MD: np.ndarray, start: int, count: int) -> None:
  """Asks the system to load pages of a file while others are worked on.

  Waiting for each page when it is touched reads at a third of the disk's speed.
  """
  if not isinstance(rows_MD, np.memmap) or not hasattr(mmap, 'MADV_WILLNEED'):
    return
  rows_BD = rows_MD[start : start + count]
  address = rows_BD.ctypes.data
  begin = address - address % mmap.PAGESIZE
  length = address + rows_BD.strides[0] * len(rows_BD) - begin
  libc = ctypes.CDLL(None)
  libc.madvise(
    ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_WILLNEED
  )
