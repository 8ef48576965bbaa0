"""Exact search on a CPU, which most rows need not be read to the end for.

What a random sample of the rows scores gives each query a floor that about k
rows are expected to reach, with room to spare. What lies beyond a prefix adds
at most the product of the norms of what is left of query and row: rows that do
not reach the floor even so are done with after the prefix. A query that fewer
than k rows reach is searched again with a lower floor, so that the result is
exact. Where the sample says that prefixes leave too many rows, as with a flat
spectrum, all rows are scored in full.
"""

import concurrent.futures
import functools

import numpy as np

from mrl_jax import cores
from mrl_jax.retrieval.cpu import bounds as bounds_lib
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu import scan
from mrl_jax.retrieval.cpu import thresholds
from mrl_jax.retrieval.cpu.candidates import best
from mrl_jax.retrieval.cpu.candidates import read_only
from mrl_jax.retrieval.cpu.candidates import ROOM
from mrl_jax.retrieval.cpu.candidates import TooManyError
from mrl_jax.retrieval.cpu.candidates import UNLIMITED
from mrl_jax.retrieval.cpu.rerank import Rescored

# Neighbours found in one reading of the rows, and queries.
_FOUND, _IN_MEMORY, _ON_DISK = 1 << 21, 2048, 4096
# Queries and rows that the choice of a prefix looks at.
_TRIED_QUERIES, _TRIED_ROWS = 64, 512
# What a row costs, in multiply-adds of a product of matrices: to compare its
# score with the floor, at wide widths; to sort and fetch it, if it may reach
# the floor; and each multiply-add then.
_COMPARE, _FETCH, _FETCHED = 280, 9000, 36


def nearest(
  query_Qd: np.ndarray,
  embedding_MD: np.ndarray,
  norms: dict[int, np.ndarray],
  k: int,
  *,
  cosine: bool,
  bounds: bool = True,
) -> Rescored:
  """The k best rows of each query; ties go to the lower id.

  Args:
    query_Qd: float32 prefixes; the rows are read as far.
    embedding_MD: rows; a memmap is read once for some thousand queries, in
      full, since a disk gives no part of a row sooner.
    norms: norm_M of prefixes by width, among them d for the cosine.
    k: at most M.
    cosine: whether scores are divided by the norms.
    bounds: whether rows may be done with after a prefix.
  """
  most = _ON_DISK if isinstance(embedding_MD, np.memmap) else _IN_MEMORY
  group = max(1, min(most, _FOUND // k))
  parts = [
    _nearest(
      query_Qd[start : start + group], embedding_MD, norms, k, cosine, bounds
    )
    for start in range(0, len(query_Qd), group)
  ]
  products = sum(part.products * len(part.ids_QK) for part in parts)
  return Rescored(
    np.concatenate([part.ids_QK for part in parts]),
    np.concatenate([part.score_QK for part in parts]),
    products / len(query_Qd),
  )


def _nearest(query_Qd, embedding_MD, norms, k, cosine, bounds):
  (Q, dim), M = query_Qd.shape, len(embedding_MD)
  norm_M = norms[dim] if cosine else None
  ids_QK = np.zeros((Q, k), np.int64)
  score_QK = np.zeros((Q, k), np.float32)
  left, products = np.arange(Q), 0
  sample = thresholds.sample_rows(embedding_MD, norm_M, dim)
  with concurrent.futures.ThreadPoolExecutor(cores.count()) as pool:
    for floor_Q in thresholds.falling(query_Qd, sample, M, k, pool):
      query_Ld, floor_L = query_Qd[left], floor_Q[left]
      prefix = found = None
      if bounds and dim in norms and _is_at_hand(embedding_MD):
        prefix = _prefix(query_Ld, sample, norms, floor_L, M, k)
      if prefix:
        found, more = _bounded(
          query_Ld, embedding_MD, norms, floor_L, k, prefix, cosine, pool
        )
        products += more
      if found is None:
        found = scan.reaching(query_Ld, embedding_MD, norm_M, floor_L, k, pool)
        products += M * dim * len(left)
      ids_LK, score_LK, count_L = best(found, len(left), k)
      # All rows that reach the floor are there; others may be, too.
      enough_L = (count_L >= k) & (score_LK[:, -1] >= floor_L)
      done = left[enough_L]
      ids_QK[done], score_QK[done] = ids_LK[enough_L], score_LK[enough_L]
      left = left[~enough_L]
      if not len(left):
        break
  return Rescored(ids_QK, score_QK, products / Q)


def _is_at_hand(embedding_MD: np.ndarray) -> bool:
  return embedding_MD.dtype == np.float32 and not isinstance(
    embedding_MD, np.memmap
  )


def _prefix(query_Qd, sample, norms, floor_Q, M, k) -> int | None:
  """The prefix to scan by, as the sample has it; None: score all in full.

  Of the prepared widths the one of the fewest multiply-adds.
  """
  dim = query_Qd.shape[1]
  if dim <= scan.NARROW:
    return None  # Such rows are scored as fast as they are looked up.
  tried = _spread(len(query_Qd), _TRIED_QUERIES)
  rows = _spread(len(sample.ids_S), _TRIED_ROWS)
  sample = thresholds.Sample(*(x_S[rows] for x_S in sample[:3]), sample.most)
  reach = {
    width: M * _share(query_Qd[tried], floor_Q[tried], sample, norms, width)
    for width in _widths(norms, dim)
  }
  costs = {None: M * (dim + _COMPARE)}
  for width, rows in reach.items():
    if rows > ROOM / 4:
      continue
    second = max(reach)
    products = rows * second + max(k, reach[second]) * dim
    compare = 0 if width + bounds_lib.BEHIND <= scan.NARROW else _COMPARE
    costs[width] = M * (width + compare) + rows * _FETCH + products * _FETCHED
  return min(costs, key=costs.get)


def _spread(count: int, most: int) -> np.ndarray:
  """At most so many of the numbers up to `count`, as far apart as can be."""
  return np.linspace(0, count - 1, min(count, most)).astype(int)


def _share(query_Td, floor_T, sample, norms, width) -> float:
  """Of the sample, what may reach the floors after a prefix of this width."""
  whole_S = norms[query_Td.shape[1]][sample.ids_S]
  part_S = norms[width][sample.ids_S]
  rows_SA = np.concatenate(
    [sample.rows_Sd[:, :width], bounds_lib.behind_rows(whole_S, part_S)], axis=1
  )
  bound_TS = _with_behind(query_Td, width) @ rows_SA.T / sample.norm_S
  return (bound_TS >= floor_T[:, None]).mean()


def _widths(norms, dim: int) -> list[int]:
  """Those to scan by; at the last a fetched row's bound is looked at again."""
  # A copy, since a search by another thread may add a width meanwhile.
  return sorted(width for width in [*norms] if width <= dim / 8)


def _with_behind(query_Qd: np.ndarray, width: int) -> np.ndarray:
  behind_QA = bounds_lib.behind_queries(query_Qd, width)
  return np.concatenate([query_Qd[:, :width], behind_QA], axis=1)


def _bounded(
  query_Qd, embedding_MD, norms, floor_Q, k, width, cosine, pool
) -> tuple[list[scan.Found] | None, int]:
  """The best k, among others, of what reaches the floors; the products.

  None in place of them if that is more than there is room for. A query of which
  it is has none.
  """
  (Q, dim), M = query_Qd.shape, len(embedding_MD)
  norm_M = norms[dim] if cosine else None
  try:
    found = scan.reaching(
      _with_behind(query_Qd, width),
      embedding_MD,
      norm_M,
      floor_Q,
      None,
      pool,
      behind_ME=bounds_lib.behind_rows(norms[dim], norms[width]),
    )
  except TooManyError:
    return None, Q * M * width
  query_N, id_N, bound_N = map(np.concatenate, zip(*found, strict=True))
  count_Q = np.bincount(query_N, minlength=Q)
  if count_Q.max() > ROOM:
    fits_N = (count_Q <= ROOM)[query_N]
    query_N, id_N, bound_N = query_N[fits_N], id_N[fits_N], bound_N[fits_N]
    count_Q[count_Q > ROOM] = 0
  most = max(1, count_Q.max())
  ids_QK, bound_QK, _ = best([(query_N, id_N, bound_N)], Q, most)
  ids_QK[np.arange(most) >= count_Q[:, None]] = -1
  second = _widths(norms, dim)[-1]
  behind_QA = bounds_lib.behind_queries(query_Qd, second)
  behind_MA = bounds_lib.behind_rows(norms[dim], norms[second])
  score_QK = np.empty(ids_QK.shape, np.float32)
  work = functools.partial(
    kernels.best_dots,
    query_Qd,
    read_only(embedding_MD),
    np.ones(M, np.float32) if norm_M is None else norm_M,
    UNLIMITED if norm_M is None else np.float32(1),
    behind_QA,
    behind_MA,
    ids_QK,
    bound_QK,
    second,
    k,
  )
  ends = np.linspace(0, Q, cores.count() + 1).astype(int)
  products = sum(
    pool.map(lambda q, end: work(q, end, score_QK), ends, ends[1:])
  )
  there_QK = score_QK > -np.inf
  query_N = np.nonzero(there_QK)[0].astype(np.int32)
  scored = query_N, ids_QK[there_QK], score_QK[there_QK]
  return [scored], products + Q * M * width
