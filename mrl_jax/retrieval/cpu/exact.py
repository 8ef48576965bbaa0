"""Exact search on a CPU that reads most rows only up to a prefix.

A sample of the rows gives each query a threshold that about k rows reach. Rows
whose upper bound (`bounds`) at a prefix stays below it are read no further. A
query for which fewer than k rows reach the threshold is searched again with a
lower one, so that the result is exact. Where the sample shows that prefixes
leave too many rows, as with a flat spectrum, all rows are scored in full.
"""

import concurrent.futures

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
from mrl_jax.retrieval.cpu.kernels import Hits
from mrl_jax.retrieval.cpu.rerank import Found

# Neighbours found in one pass over the rows, and queries of a pass.
_FOUND, _IN_MEMORY, _ON_DISK = 1 << 21, 2048, 4096
# Queries and rows by which a prefix is chosen.
_TRIED_QUERIES, _TRIED_ROWS = 64, 512
# The cost of a row, in multiply-adds of a matrix product: of comparing its
# score with the threshold, at wide widths; of sorting and fetching it if it may
# reach the threshold; and of each multiply-add then.
_COMPARE, _FETCH, _FETCHED = 280, 9000, 36


def nearest(
  query_Qd: np.ndarray,
  embedding_MD: np.ndarray,
  norms: dict[int, np.ndarray],
  k: int,
  *,
  cosine: bool,
) -> Found:
  """The k best rows of each query; ties go to the lower id.

  Args:
    query_Qd: float32 prefixes, whose width is that of the search.
    embedding_MD: rows. A memmap is read once for some thousand queries, and in
      full, since a disk gives no part of a row sooner.
    norms: norm_M of the rows' prefixes by width, among them d for the cosine.
      Rows may be left unread beyond such a prefix.
    k: at most M.
    cosine: whether scores are divided by the norms.
  """
  most = _ON_DISK if isinstance(embedding_MD, np.memmap) else _IN_MEMORY
  group = max(1, min(most, _FOUND // k))
  source = scan.Source(
    embedding_MD, norms[query_Qd.shape[1]] if cosine else None
  )
  parts = [
    _nearest(query_Qd[start : start + group], source, dict(norms), k)
    for start in range(0, len(query_Qd), group)
  ]
  products = sum(part.products * len(part.ids_QK) for part in parts)
  return Found(
    np.concatenate([part.ids_QK for part in parts]),
    np.concatenate([part.score_QK for part in parts]),
    products / len(query_Qd),
  )


def _nearest(query_Qd, source, norms, k) -> Found:
  (Q, dim), M = query_Qd.shape, len(source.embedding_MD)
  ids_QK = np.zeros((Q, k), np.int64)
  score_QK = np.zeros((Q, k), np.float32)
  left, products = np.arange(Q), 0
  # The rows lie in memory as they are scored.
  is_at_hand = source.embedding_MD.dtype == np.float32
  is_at_hand &= not isinstance(source.embedding_MD, np.memmap)
  sample = thresholds.sample_rows(source, dim)
  with concurrent.futures.ThreadPoolExecutor(cores.count()) as pool:
    for threshold_Q in thresholds.falling(query_Qd, sample, M, k, pool):
      query_Ld, threshold_L = query_Qd[left], threshold_Q[left]
      prefix = hits = None
      if dim in norms and is_at_hand:
        prefix = _prefix(query_Ld, sample, norms, threshold_L, M, k)
      if prefix:
        hits, more = _bounded(
          query_Ld, source, norms, threshold_L, k, prefix, pool
        )
        products += more
      if hits is None:
        hits = scan.reaching(query_Ld, source, threshold_L, k, pool)
        products += M * dim * len(left)
      ids_LK, score_LK, count_L = best(hits, len(left), k)
      # All rows that reach the threshold are among the hits; so may others be.
      enough_L = (count_L >= k) & (score_LK[:, -1] >= threshold_L)
      done = left[enough_L]
      ids_QK[done], score_QK[done] = ids_LK[enough_L], score_LK[enough_L]
      left = left[~enough_L]
      if not len(left):
        break
  return Found(ids_QK, score_QK, products / Q)


def _prefix(query_Qd, sample, norms, threshold_Q, M, k) -> int | None:
  """The prepared width with the cheapest scan; None: score all rows in full."""
  dim = query_Qd.shape[1]
  if dim <= scan.NARROW:
    return None  # Scoring such rows in full costs no more than fetching them.
  tried = _spread(len(query_Qd), _TRIED_QUERIES)
  rows = _spread(len(sample.ids_S), _TRIED_ROWS)
  sample = thresholds.Sample(*(x_S[rows] for x_S in sample[:3]), sample.limit)
  reach = {
    width: M * _share(query_Qd[tried], threshold_Q[tried], sample, norms, width)
    for width in _widths(norms, dim)
  }
  costs = {None: M * (dim + _COMPARE)}
  for width, rows in reach.items():
    if rows > ROOM / 4:
      continue
    second = max(reach)
    products = rows * second + max(k, reach[second]) * dim
    compare = 0 if width + bounds_lib.TAIL <= scan.NARROW else _COMPARE
    costs[width] = M * (width + compare) + rows * _FETCH + products * _FETCHED
  return min(costs, key=costs.get)


def _spread(count: int, most: int) -> np.ndarray:
  """At most `most` of the numbers below `count`, evenly spaced."""
  return np.linspace(0, count - 1, min(count, most)).astype(int)


def _share(query_Td, threshold_T, sample, norms, width) -> float:
  """The share of the sample whose bounds at this width reach the thresholds."""
  norm_S = norms[query_Td.shape[1]][sample.ids_S]
  tail_SA = bounds_lib.row_tails(norm_S, norms[width][sample.ids_S])
  rows_SA = np.concatenate([sample.rows_Sd[:, :width], tail_SA], axis=1)
  bound_TS = bounds_lib.extend(query_Td, width) @ rows_SA.T / sample.norm_S
  return (bound_TS >= threshold_T[:, None]).mean()


def _widths(norms, dim: int) -> list[int]:
  """Widths to scan by; at the last one a fetched row is bounded once more."""
  return sorted(width for width in norms if width <= dim / 8)


def _bounded(
  query_Qd, source, norms, threshold_Q, k, width, pool
) -> tuple[list[Hits] | None, int]:
  """(rows that may be among the k best, scored in full; multiply-adds).

  None in place of the rows if more reach the thresholds than there is room for.
  A single query for which that is so gets no rows.
  """
  (Q, dim), M = query_Qd.shape, len(source.embedding_MD)
  tail_MA = bounds_lib.row_tails(norms[dim], norms[width])
  try:
    hits = scan.reaching(
      bounds_lib.extend(query_Qd, width),
      source._replace(tail_MA=tail_MA),
      threshold_Q,
      None,
      pool,
    )
  except TooManyError:
    return None, Q * M * width
  query_N, id_N, bound_N = map(np.concatenate, zip(*hits, strict=True))
  count_Q = np.bincount(query_N, minlength=Q)
  if count_Q.max() > ROOM:
    fits_N = (count_Q <= ROOM)[query_N]
    query_N, id_N, bound_N = query_N[fits_N], id_N[fits_N], bound_N[fits_N]
    count_Q[count_Q > ROOM] = 0
  most = max(1, count_Q.max())
  ids_QK, bound_QK, _ = best([Hits(query_N, id_N, bound_N)], Q, most)
  ids_QK[np.arange(most) >= count_Q[:, None]] = -1
  score_QK, products = _score(
    query_Qd, source, norms, ids_QK, bound_QK, k, pool
  )
  found_QK = score_QK > -np.inf
  query_N = np.nonzero(found_QK)[0].astype(np.int32)
  scored = Hits(query_N, ids_QK[found_QK], score_QK[found_QK])
  return [scored], products + Q * M * width


def _score(query_Qd, source, norms, ids_QK, bound_QK, k, pool):
  """(scores [Q, K], multiply-adds) of rows that come by falling bounds."""
  (Q, dim), M = query_Qd.shape, len(source.embedding_MD)
  norm_M = source.norm_M
  rows = kernels.Rows(
    read_only(source.embedding_MD),
    np.ones(M, np.float32) if norm_M is None else norm_M,
    source.limit,
  )
  second = _widths(norms, dim)[-1]
  row_MA = bounds_lib.row_tails(norms[dim], norms[second])
  query_QA = bounds_lib.query_tails(query_Qd, second)
  score_QK = np.empty(ids_QK.shape, np.float32)

  def work(start, end):
    part = slice(start, end)
    tails = kernels.Tails(second, query_QA[part], row_MA)
    return kernels.best_dots(
      query_Qd[part], rows, tails, ids_QK[part], bound_QK[part], k,
      score_QK[part],
    )  # fmt: skip

  ends = np.linspace(0, Q, cores.count() + 1).astype(int)
  return score_QK, sum(pool.map(work, ends, ends[1:]))
