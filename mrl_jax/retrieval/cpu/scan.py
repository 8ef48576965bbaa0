"""What of all rows reaches a floor, on a CPU: by loops of our own, or by XLA.

Each query has a floor; only rows that reach it are kept, so that the scores are
never all in memory.
"""

import concurrent.futures
import ctypes
import itertools
import mmap
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import cores
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu.candidates import Candidates
from mrl_jax.retrieval.cpu.candidates import UNLIMITED

# Widths up to this one are scored without a matrix of scores.
NARROW = 48
# Rows and queries scored at a time.
_NARROW_ROWS, _ROWS, _QUERIES = 8192, 1024, 512

# Queries [N], ids [N] and scores [N].
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def reaching(
  query_Qd: np.ndarray,
  embedding_MD: np.ndarray,
  norm_M: np.ndarray | None,
  floor_Q: np.ndarray,
  k: int | None,
  pool: concurrent.futures.Executor,
  *,
  behind_ME: np.ndarray | None = None,
) -> list[Found]:
  """Queries, ids and scores of what reaches the floors, in parts, unordered.

  Args:
    query_Qd: float32 prefixes; the rows are read as far.
    embedding_MD: rows; a memmap is read once.
    norm_M: that scores are divided by, which then are cosines and are cut to
      [-1, 1]; None: not.
    floor_Q: what a score must reach.
    k: of each query the best that will be wanted: the others may be left out;
      None: nothing is, and `TooManyError` may be raised.
    pool: of as many threads as there are cores.
    behind_ME: float32 numbers that stand behind each row's prefix of d - E, as
      the last ones of the queries do.
  """
  rows = _Rows(embedding_MD, norm_M, behind_ME, query_Qd.shape[1])
  scan = _narrow if query_Qd.shape[1] <= NARROW else _wide
  return scan(query_Qd, rows, floor_Q, k, pool)


class _Rows(NamedTuple):
  """What is scored, as it is stored."""

  embedding_MD: np.ndarray
  norm_M: np.ndarray | None
  behind_ME: np.ndarray | None
  dim: int

  @property
  def most(self) -> np.float32:
    """What scores are cut to."""
    return UNLIMITED if self.norm_M is None else np.float32(1)

  def read(self, start: int, rows_Bd: np.ndarray) -> np.ndarray:
    """Fills the block, at the end with zeros; returns what divides its scores.

    No more than there are from `start` on.
    """
    norm_B = np.ones(len(rows_Bd), np.float32)
    part = slice(start, start + len(rows_Bd))
    count = min(len(rows_Bd), len(self.embedding_MD) - start)
    width = self.dim
    if self.behind_ME is not None:
      width -= self.behind_ME.shape[1]
      rows_Bd[:count, width:] = self.behind_ME[part]
    rows_Bd[:count, :width] = self.embedding_MD[part, :width]
    rows_Bd[count:] = 0
    if self.norm_M is not None:
      norm_B[:count] = self.norm_M[part]
    return norm_B


def _narrow(query_Qd, rows, floor_Q, k, pool):
  """Each thread's part; the rows are split among them."""
  M, dim = len(rows.embedding_MD), rows.dim
  query_Qd = np.pad(query_Qd, ((0, 0), (0, -dim % kernels.LANE)))
  threads = cores.count()
  # All of them read next to each other, for the sake of disks.
  size = min(_NARROW_ROWS, -(-M // threads))

  def scan(thread):
    part = Candidates(floor_Q, k, block=0, most=rows.most)
    rows_Bd = np.empty((size, dim), np.float32)
    for start in range(thread * size, M, threads * size):
      stop = min(start + size, M)
      _read_ahead(rows.embedding_MD, stop + (threads - 1) * size, size)
      block = rows_Bd[: stop - start]
      norm_B = rows.read(start, block)
      part.add_rows(query_Qd, block, norm_B, start)
    return part.found()

  return list(pool.map(scan, range(threads)))


def _wide(query_Qd, rows, floor_Q, k, pool):
  """Products by XLA; the queries are then split among the threads."""
  (Q, dim), M = query_Qd.shape, len(rows.embedding_MD)
  size = min(M, _ROWS)
  # All blocks are of one shape, which is compiled once.
  blocks = -(-Q // _QUERIES)
  per_block = -(-Q // blocks)
  query_Qd = np.resize(query_Qd, (blocks * per_block, dim))
  query_blocks = [jax.device_put(x) for x in np.split(query_Qd, blocks)]
  part_blocks = [
    _parts(floor_Q, slice(first, min(first + per_block, Q)), k, size)
    for first in range(0, blocks * per_block, per_block)
  ]
  rows_Bd = _aligned(size, dim)
  with concurrent.futures.ThreadPoolExecutor(1) as ahead:
    for start in range(0, M, size):
      ahead.submit(_read_ahead, rows.embedding_MD, start + size, 2 * size)
      norm_B = rows.read(start, rows_Bd)
      for query_Bd, parts in zip(query_blocks, part_blocks, strict=True):
        score_QB = np.asarray(scores(query_Bd, rows_Bd, norm_B, rows.most))
        add = lambda begin, part, score_QB=score_QB, start=start: (
          part.add_scores(
            score_QB[begin % per_block :], start, min(size, M - start)
          )
        )
        list(pool.map(add, *zip(*parts, strict=True)))
  return [
    (begin + query_N, id_N, score_N)
    for begin, part in itertools.chain.from_iterable(part_blocks)
    for query_N, id_N, score_N in [part.found()]
  ]


def _parts(floor_Q, queries: slice, k, block) -> list[tuple[int, Candidates]]:
  """For each thread its first query, and what holds the rows it finds."""
  begins = np.linspace(queries.start, queries.stop, cores.count() + 1)
  return [
    (begin, Candidates(floor_Q[begin:end], k, block=block))
    for begin, end in itertools.pairwise(begins.astype(int))
    if begin < end
  ]


def _aligned(rows: int, dim: int) -> np.ndarray:
  """Memory that XLA reads in place; what numpy allocates it copies first."""
  memory = np.empty(4 * rows * dim + 64, np.uint8)
  start = -memory.ctypes.data % 64
  memory = memory[start : start + 4 * rows * dim]
  return memory.view(np.float32).reshape(rows, dim)


def _read_ahead(embedding_MD: np.ndarray, start: int, count: int) -> None:
  """Asks the system for pages of a file, while others are worked on.

  Without, each is waited for when it is touched: a third of the disk's speed.
  """
  is_file = isinstance(embedding_MD, np.memmap)
  rows_BD = embedding_MD[start : start + count]
  if not is_file or not len(rows_BD) or not hasattr(mmap, 'MADV_WILLNEED'):
    return
  address = rows_BD.ctypes.data
  start = address - address % mmap.PAGESIZE
  length = address + rows_BD.strides[0] * len(rows_BD) - start
  libc = ctypes.CDLL(None)
  libc.madvise(
    ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_WILLNEED
  )


# XLA's product of a row and a query is the same wherever they stand in a block,
# so that equal rows tie; that of OpenBLAS is not.
@jax.jit
def scores(
  query_Bd: jax.Array, rows_Bd: jax.Array, norm_B: jax.Array, most: jax.Array
) -> jax.Array:
  """Products of queries and rows, divided by the rows' norms: [Q, B].

  They are cut to [-most, most], so that no cosine is beyond 1 by rounding.
  """
  score_QB = jnp.matmul(query_Bd, rows_Bd.T, precision='highest')
  return jnp.clip(score_QB / norm_B[None, :], -most, most)
