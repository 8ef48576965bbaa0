"""Scans all rows for those that reach a threshold, on a CPU.

Narrow prefixes are scored by compiled loops, wide ones by XLA. Only scores that
reach the threshold of their query are kept, so that memory stays bounded.
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
from mrl_jax.retrieval.cpu.kernels import Hits
from mrl_jax.retrieval.cpu.kernels import UNLIMITED

# Widths up to this one are scored without a matrix of scores.
NARROW = 48
# Rows and queries scored at a time.
_NARROW_ROWS, _ROWS, _QUERIES = 8192, 1024, 512


class Source(NamedTuple):
  """Stored rows, and how they are scored.

  Attributes:
    embedding_MD: the rows; a memmap is read once.
    norm_M: divisors of the scores, which then are cosines, clipped to [-1, 1];
      None: scores are dot products.
    tail_MA: float32 numbers appended to each row's prefix; None: none.
  """

  embedding_MD: np.ndarray
  norm_M: np.ndarray | None
  tail_MA: np.ndarray | None = None

  @property
  def limit(self) -> np.float32:
    return UNLIMITED if self.norm_M is None else np.float32(1)

  def read(self, start: int, rows_Bd: np.ndarray) -> np.ndarray:
    """Fills a block with rows from `start` on; returns their divisors [B].

    Beyond the last row the block is filled with zeros.
    """
    norm_B = np.ones(len(rows_Bd), np.float32)
    part = slice(start, start + len(rows_Bd))
    count = min(len(rows_Bd), len(self.embedding_MD) - start)
    width = rows_Bd.shape[1]
    if self.tail_MA is not None:
      width -= self.tail_MA.shape[1]
      rows_Bd[:count, width:] = self.tail_MA[part]
    rows_Bd[:count, :width] = self.embedding_MD[part, :width]
    rows_Bd[count:] = 0
    if self.norm_M is not None:
      norm_B[:count] = self.norm_M[part]
    return norm_B


def reaching(
  query_Qd: np.ndarray,
  source: Source,
  threshold_Q: np.ndarray,
  k: int | None,
  pool: concurrent.futures.Executor,
) -> list[Hits]:
  """The rows that reach the thresholds, in parts, unordered.

  Queries are float32 prefixes, and behind them what stands for `tail_MA`. Rows
  worse than the `k` best of a query may be missing; with k None none is, and
  `candidates.TooManyError` may be raised. `pool` has a thread for each core.
  """
  scan = _narrow if query_Qd.shape[1] <= NARROW else _wide
  return scan(query_Qd, source, threshold_Q, k, pool)


def _narrow(query_Qd, source, threshold_Q, k, pool):
  """Splits the rows among the threads; each has candidates of its own."""
  M, dim = len(source.embedding_MD), query_Qd.shape[1]
  query_Qd = np.pad(query_Qd, ((0, 0), (0, -dim % kernels.LANE)))
  threads = cores.count()
  # Threads read adjacent blocks, so that a disk is read in order.
  size = min(_NARROW_ROWS, -(-M // threads))

  def scan(thread):
    part = Candidates(threshold_Q, k)
    rows_Bd = np.empty((size, dim), np.float32)
    for start in range(thread * size, M, threads * size):
      stop = min(start + size, M)
      _read_ahead(source.embedding_MD, stop + (threads - 1) * size, size)
      block = rows_Bd[: stop - start]
      norm_B = source.read(start, block)
      part.add_rows(query_Qd, kernels.Rows(block, norm_B, source.limit), start)
    return part.hits()

  return list(pool.map(scan, range(threads)))


def _wide(query_Qd, source, threshold_Q, k, pool):
  """Computes products by XLA, then splits the queries among the threads."""
  (Q, dim), M = query_Qd.shape, len(source.embedding_MD)
  size = min(M, _ROWS)
  # All blocks have one shape, which is compiled once.
  blocks = -(-Q // _QUERIES)
  per_block = -(-Q // blocks)
  query_Qd = np.resize(query_Qd, (blocks * per_block, dim))
  query_blocks = [jax.device_put(x) for x in np.split(query_Qd, blocks)]
  part_blocks = [
    _parts(threshold_Q, slice(first, min(first + per_block, Q)), k, size)
    for first in range(0, blocks * per_block, per_block)
  ]
  rows_Bd = _aligned(size, dim)
  with concurrent.futures.ThreadPoolExecutor(1) as ahead:
    for start in range(0, M, size):
      ahead.submit(_read_ahead, source.embedding_MD, start + size, 2 * size)
      norm_B = source.read(start, rows_Bd)
      for query_Bd, parts in zip(query_blocks, part_blocks, strict=True):
        score_QB = np.asarray(scores(query_Bd, rows_Bd, norm_B, source.limit))
        add = lambda begin, part, score_QB=score_QB, start=start: (
          part.add_scores(
            score_QB[begin % per_block :], start, min(size, M - start)
          )
        )
        list(pool.map(add, *zip(*parts, strict=True)))
  return [
    Hits(begin + query_N, id_N, score_N)
    for begin, part in itertools.chain.from_iterable(part_blocks)
    for query_N, id_N, score_N in [part.hits()]
  ]


def _parts(threshold_Q, queries: slice, k, block):
  """(first query, Candidates) of each thread, which share these queries."""
  begins = np.linspace(queries.start, queries.stop, cores.count() + 1)
  return [
    (begin, Candidates(threshold_Q[begin:end], k, block=block))
    for begin, end in itertools.pairwise(begins.astype(int))
    if begin < end
  ]


def _aligned(rows: int, dim: int) -> np.ndarray:
  """An array that XLA reads in place, where it would copy others of numpy."""
  memory = np.empty(4 * rows * dim + 64, np.uint8)
  start = -memory.ctypes.data % 64
  memory = memory[start : start + 4 * rows * dim]
  return memory.view(np.float32).reshape(rows, dim)


def _read_ahead(embedding_MD: np.ndarray, start: int, count: int) -> None:
  """Asks the system to load pages of a file while others are worked on.

  Waiting for each page when it is touched reads at a third of the disk's speed.
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


# Unlike that of OpenBLAS, XLA's product of a query and a row does not depend on
# their positions in a block, so that equal rows tie.
@jax.jit
def scores(
  query_Bd: jax.Array, rows_Bd: jax.Array, norm_B: jax.Array, limit: jax.Array
) -> jax.Array:
  """Dot products divided by the rows' norms, clipped to [-limit, limit]."""
  score_QB = jnp.matmul(query_Bd, rows_Bd.T, precision='highest')
  return jnp.clip(score_QB / norm_B[None, :], -limit, limit)
