"""Exact search on a CPU: wide products by XLA, the rest by loops of our own.

What a random sample of the rows scores gives each query a floor that about k
rows are expected to reach, with room to spare. Only rows that reach it are
looked at again; a query that fewer than k reach is searched again with a lower
one, so that the result is exact. Scores are never all in memory.
"""

from collections.abc import Iterator
import concurrent.futures
import ctypes
import itertools
import math
import mmap
import os

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax.retrieval import kernels
from mrl_jax.retrieval.candidates import best
from mrl_jax.retrieval.candidates import Candidates

# Widths up to this one are scored without a matrix of scores.
_NARROW = 48
# Rows and queries scored at a time.
_NARROW_ROWS, _ROWS, _QUERIES = 8192, 1024, 512
# Rows sampled for the floors, at narrow and at wide widths.
_SAMPLE, _WIDE_SAMPLE, _WIDE = 8192, 2048, 256
# Of them, rows of a file that stand together.
_RUN = 16
# Scores of the sample that one maximum stands for while it is sorted.
_SPREAD = 8
# Neighbours found in one reading of the rows.
_FOUND = 1 << 21


def nearest(
  query_Qd: np.ndarray,
  embedding_MD: np.ndarray,
  norm_M: np.ndarray | None,
  k: int,
) -> tuple[np.ndarray, np.ndarray]:
  """(ids [Q, k], scores [Q, k]) of the best rows; ties go to the lower id.

  Args:
    query_Qd: float32 prefixes; the rows are read as far.
    embedding_MD: rows; a memmap is read once for some thousand queries.
    norm_M: that scores are divided by; None: not.
    k: at most M.
  """
  group = max(1, min(8 * _QUERIES, _FOUND // k))
  parts = [
    _nearest(query_Qd[start : start + group], embedding_MD, norm_M, k)
    for start in range(0, len(query_Qd), group)
  ]
  ids_QK, score_QK = zip(*parts, strict=True)
  return np.concatenate(ids_QK), np.concatenate(score_QK)


def num_threads() -> int:
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _nearest(query_Qd, embedding_MD, norm_M, k):
  Q = len(query_Qd)
  ids_QK = np.zeros((Q, k), np.int64)
  score_QK = np.zeros((Q, k), np.float32)
  left = np.arange(Q)
  with concurrent.futures.ThreadPoolExecutor(num_threads()) as pool:
    for floor_Q in _floors(query_Qd, embedding_MD, norm_M, k, pool):
      scan = _scan_narrow if query_Qd.shape[1] <= _NARROW else _scan_wide
      found = scan(query_Qd[left], embedding_MD, norm_M, floor_Q[left], k, pool)
      ids_LK, score_LK, count_L = best(found, len(left), k)
      enough_L = count_L >= k
      done = left[enough_L]
      ids_QK[done], score_QK[done] = ids_LK[enough_L], score_LK[enough_L]
      left = left[~enough_L]
      if not len(left):
        break
  return ids_QK, score_QK


def _floors(query_Qd, embedding_MD, norm_M, k, pool) -> Iterator[np.ndarray]:
  """Floors for each query, lower and lower; the last one everything reaches."""
  M, dim = len(embedding_MD), query_Qd.shape[1]
  size = min(M, _WIDE_SAMPLE if dim >= _WIDE else _SAMPLE)
  ids_S = np.linspace(0, M - 1, size).astype(np.int64)
  if isinstance(embedding_MD, np.memmap) and size < M:
    # A disk reads runs of rows hundreds of times as fast.
    first_S = np.linspace(0, M - _RUN, size // _RUN).astype(np.int64)
    ids_S = np.unique(first_S[:, None] + np.arange(_RUN))
    size = len(ids_S)
  rows_Sd = np.asarray(embedding_MD[ids_S, :dim], np.float32)
  norm_S = np.ones(size, np.float32) if norm_M is None else norm_M[ids_S]
  expected = k * size / M
  # So many deviations that one query in some thousand falls short.
  rank = k if size == M else math.ceil(expected + 5 * math.sqrt(expected) + 3)
  while rank < size:
    parts = [
      _kth(query_Qd[start : start + _QUERIES], rows_Sd, norm_S, rank, pool)
      for start in range(0, len(query_Qd), _QUERIES)
    ]
    yield np.concatenate(parts)
    rank *= 8
  yield np.full(len(query_Qd), -np.inf, np.float32)


def _kth(query_Bd, rows_Sd, norm_S, rank, pool):
  """At most the `rank`-th best score of each query, and hardly less."""
  fold = _SPREAD if 8 * rank * _SPREAD <= len(rows_Sd) else 1
  score_BS = np.asarray(_spread_maxima(query_Bd, rows_Sd, norm_S, fold=fold))
  place = score_BS.shape[1] - rank
  parts = np.array_split(score_BS, num_threads())
  kth = pool.map(lambda x: np.partition(x, place, axis=1)[:, place], parts)
  return np.concatenate(list(kth))


def _scan_narrow(query_Qd, embedding_MD, norm_M, floor_Q, k, pool):
  """What reaches the floors, each thread's; the rows are split among them."""
  M, dim = len(embedding_MD), query_Qd.shape[1]
  query_Qd = np.pad(query_Qd, ((0, 0), (0, -dim % kernels.LANE)))
  threads = num_threads()
  # All of them read next to each other, for the sake of disks.
  size = min(_NARROW_ROWS, -(-M // threads))

  def scan(thread):
    part = Candidates(floor_Q, k, block=0)
    for start in range(thread * size, M, threads * size):
      rows = slice(start, min(start + size, M))
      _read_ahead(embedding_MD, rows.stop + (threads - 1) * size, size)
      rows_Bd = np.asarray(embedding_MD[rows, :dim], np.float32)
      norm_B = np.ones(len(rows_Bd), np.float32)
      if norm_M is not None:
        norm_B[:] = norm_M[rows]
      part.add_rows(query_Qd, rows_Bd, norm_B, start)
    return part.found()

  return list(pool.map(scan, range(threads)))


def _scan_wide(query_Qd, embedding_MD, norm_M, floor_Q, k, pool):
  """What reaches the floors; the queries are split among the threads."""
  (Q, dim), M = query_Qd.shape, len(embedding_MD)
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
      ahead.submit(_read_ahead, embedding_MD, start + size, 2 * size)
      norm_B = _read(embedding_MD, norm_M, start, rows_Bd)
      for query_Bd, parts in zip(query_blocks, part_blocks, strict=True):
        score_QB = np.asarray(_scores(query_Bd, rows_Bd, norm_B))
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
  begins = np.linspace(queries.start, queries.stop, num_threads() + 1)
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


def _read(embedding_MD, norm_M, start, rows_Bd) -> np.ndarray:
  """Fills the block, at the end with zeros; returns what divides its scores."""
  size, dim = rows_Bd.shape
  norm_B = np.ones(size, np.float32)
  count = min(size, len(embedding_MD) - start)
  rows_Bd[:count] = embedding_MD[start : start + count, :dim]
  rows_Bd[count:] = 0
  if norm_M is not None:
    norm_B[:count] = norm_M[start : start + count]
  return norm_B


# XLA's product of a row and a query is the same wherever they stand in a block,
# so that equal rows tie; that of OpenBLAS is not.
@jax.jit
def _scores(query_Bd, rows_Bd, norm_B):
  score_QB = jnp.matmul(query_Bd, rows_Bd.T, precision='highest')
  return score_QB / norm_B[None, :]


@jax.jit(static_argnames='fold')
def _spread_maxima(query_Bd, rows_Sd, norm_S, *, fold):
  """Maxima of `fold` scores each, of rows that stand far from each other.

  Neighbours would not do: they often are of one class.
  """
  size = len(rows_Sd) // fold
  score_QS = _scores(query_Bd, rows_Sd[: fold * size], norm_S[: fold * size])
  return score_QS.reshape(len(score_QS), fold, size).max(1)
