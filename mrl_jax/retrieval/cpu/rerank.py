"""Reranks a shortlist on a CPU, where reading its rows takes most of the time.

Each row is read up to a narrower prefix first. Rows whose upper bound there
(`bounds`) is below the lower bounds of k others are read no further.
"""

import concurrent.futures
import functools
from typing import NamedTuple

import numpy as np

from mrl_jax import cores
from mrl_jax.retrieval.cpu import bounds
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu.candidates import best
from mrl_jax.retrieval.cpu.candidates import read_only
from mrl_jax.retrieval.cpu.kernels import Hits

# Queries ranked at a time.
_QUERIES = 128
# Narrower widths, and shortlists shorter than this multiple of k, are read to
# the end at once; so is all that follows a block of queries of which more than
# this share was.
_NARROW, _SHORT, _USELESS = 512, 3, 0.5


class Found(NamedTuple):
  """The best rows of each query, and the multiply-adds of a query."""

  ids_QK: np.ndarray
  score_QK: np.ndarray
  products: float


def rescore(
  query_Qd: np.ndarray,
  embedding_MD: np.ndarray,
  norms: dict[int, np.ndarray],
  ids_QK: np.ndarray,
  k: int,
  *,
  cosine: bool,
) -> Found:
  """The k best of the rows `ids_QK` (-1 for none); ties go to the lower id.

  The other arguments are those of `exact.nearest`.
  """
  (Q, dim), K = query_Qd.shape, ids_QK.shape[1]
  first = _first_width(dim, norms, K, k)
  query_K = np.repeat(np.arange(Q, dtype=np.int32), K)
  score_QK, products = np.empty(ids_QK.shape, np.float32), 0
  with concurrent.futures.ThreadPoolExecutor(cores.count()) as pool:
    dots = functools.partial(
      _dots, embedding_MD=read_only(embedding_MD), pool=pool
    )
    size = _QUERIES if first else Q
    for start in range(0, Q, size):
      block = slice(start, start + size)
      query_Bd, ids_BK = query_Qd[block], ids_QK[block]
      if first:
        products += ids_BK.size * first
        ids_BK = _within_reach(dots, query_Bd, norms, ids_BK, k, first, cosine)
      read = np.count_nonzero(ids_BK >= 0)
      if read > _USELESS * ids_BK.size:
        first = None
      products += read * dim
      score_QK[block] = dots(query_Bd, ids_BK=ids_BK)
  if cosine:
    score_QK /= norms[dim][ids_QK]
    # Rows that were left out keep -inf.
    np.clip(score_QK, -1, 1, out=score_QK, where=score_QK > -np.inf)
  every = Hits(query_K, ids_QK.ravel(), score_QK.ravel())
  ids_QK, score_QK, _ = best([every], Q, k)
  return Found(ids_QK, score_QK, products / Q)


def _first_width(dim, norms, K, k) -> int | None:
  """The width to read first: the widest that is at most an eighth; or None."""
  if dim < _NARROW or dim not in norms or _SHORT * k > K:
    return None
  # A copy, since a search by another thread may add a width meanwhile.
  widths = [*norms]
  return max((x for x in widths if dim / 64 <= x <= dim / 8), default=None)


def _within_reach(dots, query_Bd, norms, ids_BK, k, first, cosine):
  """The ids, with -1 for rows that k others are certain to exceed."""
  prefix_Bd = np.ascontiguousarray(query_Bd[:, :first])
  score_BK = dots(prefix_Bd, ids_BK=ids_BK)
  norm_BK, part_BK = norms[query_Bd.shape[1]][ids_BK], norms[first][ids_BK]
  tail_BA = bounds.query_tails(query_Bd, first)
  tail_BKA = bounds.row_tails(norm_BK, part_BK)
  reach_BK = np.einsum('BA,BKA->BK', tail_BA, tail_BKA)
  if cosine:
    score_BK /= norm_BK
    reach_BK /= norm_BK
  place = ids_BK.shape[1] - k
  least_B1 = np.partition(score_BK - reach_BK, place, axis=1)[:, place, None]
  return np.where(score_BK + reach_BK >= least_B1, ids_BK, -1)


def _dots(query_Bd, embedding_MD, ids_BK, pool):
  """Dot products of queries and their rows [B, K]; -inf for an id of -1."""
  dot_BK = np.empty(ids_BK.shape, np.float32)

  def work(q, end):
    kernels.dots(query_Bd[q:end], embedding_MD, ids_BK[q:end], dot_BK[q:end])

  def convert_and_work(q, end):
    places_1K = np.arange(ids_BK.shape[1])[None]
    for i in range(q, end):
      rows_KD = read_only(np.asarray(embedding_MD[ids_BK[i]], np.float32))
      place_1K = np.where(ids_BK[i] < 0, -1, places_1K)
      kernels.dots(query_Bd[i : i + 1], rows_KD, place_1K, dot_BK[i : i + 1])

  in_place = embedding_MD.dtype == np.float32
  ends = np.linspace(0, len(query_Bd), cores.count() + 1).astype(int)
  list(pool.map(work if in_place else convert_and_work, ends, ends[1:]))
  return dot_BK
