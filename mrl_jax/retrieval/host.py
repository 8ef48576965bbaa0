"""Search on a CPU: products by XLA, the rest by numpy.

What a random sample of the rows scores gives each query a floor that about k
rows are expected to reach, with room to spare. Only rows that reach it are
looked at again; a query that fewer than k reach is searched again with a lower
one, so that the result is exact. Scores are never all in memory.
"""

from collections.abc import Iterator
import concurrent.futures
import ctypes
import importlib.util
import math
import mmap
import os

import jax
from jax import numpy as jnp
import numpy as np

# Rows and queries scored at a time: their scores stay in the cache. From the
# width _WIDE on the rows themselves are large.
_ROWS, _WIDE_ROWS, _QUERIES, _WIDE = 4096, 1024, 512, 256
# Scores whose maximum is looked at first.
_GROUP = 32
# Rows sampled for the floors, at narrow and at wide widths.
_SAMPLE, _WIDE_SAMPLE = 8192, 2048
# Of them, rows of a file that stand together.
_RUN = 16
# Candidates that are kept before the best of them are looked for.
_CANDIDATES = 1 << 22


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
  group = max(1, min(8 * _QUERIES, _CANDIDATES // (2 * k)))
  parts = [
    _nearest(query_Qd[start : start + group], embedding_MD, norm_M, k)
    for start in range(0, len(query_Qd), group)
  ]
  ids_QK, score_QK = zip(*parts, strict=True)
  return np.concatenate(ids_QK), np.concatenate(score_QK)


def _nearest(query_Qd, embedding_MD, norm_M, k):
  Q = len(query_Qd)
  ids_QK = np.zeros((Q, k), np.int64)
  score_QK = np.zeros((Q, k), np.float32)
  left = np.arange(Q)
  for floor_Q in _floors(query_Qd, embedding_MD, norm_M, k):
    found = _candidates(query_Qd[left], embedding_MD, norm_M, floor_Q[left], k)
    count_Q = np.bincount(found[0], minlength=len(left))
    enough = count_Q >= k
    best = _best(*(x[enough[found[0]]] for x in found), len(left), k)
    ids_QK[left[enough]], score_QK[left[enough]] = (x[enough] for x in best)
    left = left[~enough]
    if not len(left):
      break
  return ids_QK, score_QK


def _floors(query_Qd, embedding_MD, norm_M, k) -> Iterator[np.ndarray]:
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
      _kth(query_Qd[start : start + _QUERIES], rows_Sd, norm_S, rank)
      for start in range(0, len(query_Qd), _QUERIES)
    ]
    yield np.concatenate(parts)
    rank *= 8
  yield np.full(len(query_Qd), -np.inf, np.float32)


def _kth(query_Bd, rows_Sd, norm_S, rank):
  """The `rank`-th best score of each query."""
  score_BS = np.asarray(_scores(query_Bd, rows_Sd, norm_S))
  place = len(rows_Sd) - rank
  with concurrent.futures.ThreadPoolExecutor(_num_threads()) as pool:
    parts = np.array_split(score_BS, _num_threads())
    kth = pool.map(lambda x: np.partition(x, place, axis=1)[:, place], parts)
    return np.concatenate(list(kth))


def _candidates(query_Qd, embedding_MD, norm_M, floor_Q, k):
  """(queries [N], ids [N], scores [N]) of what may be among the k nearest."""
  (Q, dim), M = query_Qd.shape, len(embedding_MD)
  size = min(M, _WIDE_ROWS if dim >= _WIDE else _ROWS)
  # All blocks are of one shape, which is compiled once.
  blocks = -(-Q // _QUERIES)
  per_block = -(-Q // blocks)
  query_Qd = np.resize(query_Qd, (blocks * per_block, dim))
  query_blocks = [jax.device_put(x) for x in np.split(query_Qd, blocks)]
  floor_Q1 = np.full((len(query_Qd), 1), np.inf, np.float32)
  floor_Q1[:Q, 0] = floor_Q
  rows_Bd = _aligned(size, dim)
  kept, count = [], 0
  with concurrent.futures.ThreadPoolExecutor(1) as ahead:
    for start in range(0, M, size):
      if isinstance(embedding_MD, np.memmap):
        ahead.submit(_read_ahead, embedding_MD[start + size : start + 3 * size])
      norm_B = _read(embedding_MD, norm_M, start, rows_Bd)
      for i, query_Bd in enumerate(query_blocks):
        first = i * per_block
        query_N, row_N, score_N = _passing(
          query_Bd, rows_Bd, norm_B, floor_Q1[first : first + per_block]
        )
        if start + size > M:
          query_N, row_N, score_N = (
            x[row_N < M - start] for x in (query_N, row_N, score_N)
          )
        kept.append((query_N + first, row_N + start, score_N))
        count += len(query_N)
        if count > _CANDIDATES:
          kept, floor_Q1 = _compact(kept, floor_Q1, k)
          count = len(kept[0][0])
  return tuple(np.concatenate(x) for x in zip(*kept, strict=True))


def _aligned(rows: int, dim: int) -> np.ndarray:
  """Memory that XLA reads in place; what numpy allocates it copies first."""
  memory = np.empty(4 * rows * dim + 64, np.uint8)
  start = -memory.ctypes.data % 64
  memory = memory[start : start + 4 * rows * dim]
  return memory.view(np.float32).reshape(rows, dim)


def _read_ahead(rows_BD: np.memmap) -> None:
  """Asks the system for pages of a file, while others are worked on.

  Without, each is waited for when it is touched: a third of the disk's speed.
  """
  if not len(rows_BD) or not hasattr(mmap, 'MADV_WILLNEED'):
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


def _passing(query_Bd, rows_Bd, norm_B, floor_B1):
  """(queries [N], rows [N], scores [N]) where a score reaches its floor."""
  B = len(rows_Bd)
  if B % _GROUP:
    score_QB = np.asarray(_scores(query_Bd, rows_Bd, norm_B))
    index_N = np.flatnonzero(score_QB >= floor_B1)
    return *np.divmod(index_N, B), score_QB.ravel()[index_N]
  score_QB, maximum_QG = map(
    np.asarray, _scores_and_maxima(query_Bd, rows_Bd, norm_B)
  )
  group_H = np.flatnonzero(maximum_QG >= floor_B1)
  query_H = group_H // (B // _GROUP)
  score_HX = score_QB.reshape(-1, _GROUP)[group_H]
  index_N = np.flatnonzero(score_HX >= floor_B1[query_H])
  hit_N, place_N = np.divmod(index_N, _GROUP)
  row_N = group_H[hit_N] % (B // _GROUP) * _GROUP + place_N
  return query_H[hit_N], row_N, score_HX.ravel()[index_N]


# XLA's product of a row and a query is the same wherever they stand in a block,
# so that equal rows tie; that of OpenBLAS is not.
@jax.jit
def _scores(query_Bd, rows_Bd, norm_B):
  score_QB = jnp.matmul(query_Bd, rows_Bd.T, precision='highest')
  return score_QB / norm_B[None, :]


@jax.jit
def _scores_and_maxima(query_Bd, rows_Bd, norm_B):
  score_QB = _scores(query_Bd, rows_Bd, norm_B)
  return score_QB, score_QB.reshape(len(score_QB), -1, _GROUP).max(-1)


def _compact(kept, floor_Q1, k):
  """The k best of each query, and floors raised to the last of them."""
  query_N, id_N, score_N = map(np.concatenate, zip(*kept, strict=True))
  Q = len(floor_Q1)
  count_Q = np.bincount(query_N, minlength=Q)
  full = count_Q >= k
  ids_QK, score_QK = _best(
    *(x[full[query_N]] for x in (query_N, id_N, score_N)), Q, k
  )
  few = ~full[query_N]
  kept = [
    (query_N[few], id_N[few], score_N[few]),
    (
      np.repeat(np.flatnonzero(full), k),
      ids_QK[full].ravel(),
      score_QK[full].ravel(),
    ),
  ]
  kept = [tuple(map(np.concatenate, zip(*kept, strict=True)))]
  return kept, np.where(full[:, None], score_QK[:, -1:], floor_Q1)


def _best(query_N, id_N, score_N, Q, k):
  """(ids [Q, k], scores [Q, k]); junk where a query has no candidate."""
  count_Q = np.bincount(query_N, minlength=Q)
  begin_Q = np.cumsum(count_Q) - count_Q
  key_N = _keys(score_N, id_N)
  widest = max(int(count_Q.max()), k)
  if Q * widest > 8 * len(query_N) + (1 << 20):
    # One query has most of them.
    order = np.lexsort((key_N, query_N))
    key_N = key_N[order]
    place_QK = np.minimum(begin_Q[:, None] + np.arange(k), len(key_N) - 1)
    return _from_keys(key_N[place_QK])
  order = np.argsort(query_N.astype(np.uint16), kind='stable')
  query_N = query_N[order]
  key_QX = np.full((Q, widest), np.iinfo(np.uint64).max)
  key_QX[query_N, np.arange(len(query_N)) - begin_Q[query_N]] = key_N[order]
  key_QX.sort(axis=1)
  return _from_keys(key_QX[:, :k])


def _keys(score, ids) -> np.ndarray:
  """uint64 that increase as the score falls, and among equal ones by the id."""
  bits = (score + np.float32(0)).view(np.uint32)  # -0 and 0 are equal.
  falling = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF))
  return (falling.astype(np.uint64) << np.uint64(32)) | ids.astype(np.uint64)


def _from_keys(key) -> tuple[np.ndarray, np.ndarray]:
  falling = (key >> np.uint64(32)).astype(np.uint32)
  bits = np.where(falling >> 31, falling, ~falling & np.uint32(0x7FFFFFFF))
  ids = (key & np.uint64(0xFFFFFFFF)).astype(np.int64)
  return ids, bits.astype(np.uint32).view(np.float32)


def rescore(
  query_Qd: np.ndarray,
  embedding_MD: np.ndarray,
  norm_M: np.ndarray | None,
  ids_QK: np.ndarray,
  k: int,
) -> tuple[np.ndarray, np.ndarray]:
  """(ids [Q, k], scores [Q, k]), the best of the rows `ids_QK`."""
  if _faiss_reads(embedding_MD, query_Qd.shape[1]):
    score_QK = _dots_by_faiss(query_Qd, embedding_MD, ids_QK)
  else:
    score_QK = _dots(query_Qd, embedding_MD, ids_QK)
  if norm_M is not None:
    score_QK /= norm_M[ids_QK]
  key_QK = _keys(score_QK, ids_QK)
  key_QK.sort(axis=1)
  return _from_keys(key_QK[:, :k])


def _faiss_reads(embedding_MD, dim) -> bool:
  """Whether Faiss is there and can read prefixes of this width in place."""
  return (
    embedding_MD.dtype == np.float32
    and embedding_MD.flags.c_contiguous
    and embedding_MD.shape[1] % dim == 0
    and importlib.util.find_spec('faiss') is not None
  )


def _dots_by_faiss(query_Qd, embedding_MD, ids_QK):
  """Reads each row once and multiplies as it goes, without a copy."""
  import faiss

  (Q, K), dim = ids_QK.shape, query_Qd.shape[1]
  score_QK = np.empty((Q, K), np.float32)
  # To Faiss a row is as many rows of the prefix's width, of which the first.
  ids_QK = np.ascontiguousarray(ids_QK * (embedding_MD.shape[1] // dim))
  faiss.fvec_inner_products_by_idx(
    *map(faiss.swig_ptr, (score_QK, query_Qd, embedding_MD, ids_QK)), dim, Q, K
  )
  return score_QK


def _dots(query_Qd, embedding_MD, ids_QK):
  score_QK = np.empty(ids_QK.shape, np.float32)
  dim = query_Qd.shape[1]

  def work(queries):
    for q in queries:
      rows_Kd = np.asarray(embedding_MD[ids_QK[q], :dim], np.float32)
      # Not a matrix product: that rounds a row by its place, so that equal rows
      # would not tie.
      np.einsum('kd,d->k', rows_Kd, query_Qd[q], out=score_QK[q])

  with concurrent.futures.ThreadPoolExecutor(_num_threads()) as pool:
    list(pool.map(work, np.array_split(np.arange(len(ids_QK)), _num_threads())))
  return score_QK


def _num_threads() -> int:
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
