"""Estimates the k-th best score of each query from a sample of the rows."""

from collections.abc import Iterator
import concurrent.futures
import math
from typing import NamedTuple

import jax
import numpy as np

from mrl_jax import cores
from mrl_jax.retrieval.cpu import scan
from mrl_jax.retrieval.cpu.scan import Source

# Rows sampled at narrow and at wide widths, and from which width on it is wide.
_SAMPLE, _WIDE_SAMPLE, _WIDE = 8192, 2048, 256
# Adjacent rows that are sampled together from a file.
_RUN = 16
# Queries whose thresholds are estimated together.
_QUERIES = 512
# Rounding error of float32 scores, as a share.
_ROUNDING = np.float32(1e-6)
# Scores of the sample that one maximum stands for while it is sorted.
_SPREAD = 8


class Sample(NamedTuple):
  """Evenly spaced rows, with the divisors and the limit of their scores."""

  ids_S: np.ndarray
  rows_Sd: np.ndarray
  norm_S: np.ndarray
  limit: np.float32


def sample_rows(source: Source, dim: int) -> Sample:
  """Samples rows, cut to width `dim`, in float32."""
  embedding_MD, norm_M = source.embedding_MD, source.norm_M
  M = len(embedding_MD)
  size = min(M, _WIDE_SAMPLE if dim >= _WIDE else _SAMPLE)
  ids_S = np.linspace(0, M - 1, size).astype(np.int64)
  if isinstance(embedding_MD, np.memmap) and size < M:
    # A disk reads runs of rows hundreds of times as fast as single ones.
    first_S = np.linspace(0, M - _RUN, size // _RUN).astype(np.int64)
    ids_S = np.unique(first_S[:, None] + np.arange(_RUN))
  rows_Sd = np.asarray(embedding_MD[ids_S, :dim], np.float32)
  norm_S = np.ones(len(ids_S), np.float32) if norm_M is None else norm_M[ids_S]
  return Sample(ids_S, rows_Sd, norm_S, source.limit)


def falling(
  query_Qd: np.ndarray,
  sample: Sample,
  M: int,
  k: int,
  pool: concurrent.futures.Executor,
) -> Iterator[np.ndarray]:
  """Yields thresholds [Q], lower and lower, the last of which is -inf.

  About k of the M rows, and a margin, are expected to reach the first.
  """
  size = len(sample.ids_S)
  expected = k * size / M
  # With five standard deviations one query in thousands falls short.
  rank = k if size == M else math.ceil(expected + 5 * math.sqrt(expected) + 3)
  while rank < size:
    parts = [
      _kth(query_Qd[start : start + _QUERIES], sample, rank, pool)
      for start in range(0, len(query_Qd), _QUERIES)
    ]
    yield np.concatenate(parts)
    rank *= 8
  yield np.full(len(query_Qd), -np.inf, np.float32)


def _kth(query_Bd, sample, rank, pool):
  """The `rank`-th best score of each query in the sample, or slightly less."""
  fold = _SPREAD if 8 * rank * _SPREAD <= len(sample.rows_Sd) else 1
  score_BS = np.asarray(_spread_maxima(query_Bd, *sample[1:], fold=fold))
  place = score_BS.shape[1] - rank
  parts = np.array_split(score_BS, cores.count())
  kth = pool.map(lambda x: np.partition(x, place, axis=1)[:, place], parts)
  kth_B = np.concatenate(list(kth))
  # A product of another shape may round the score of the same row down.
  return kth_B - _ROUNDING * np.abs(kth_B)


@jax.jit(static_argnames='fold')
def _spread_maxima(query_Bd, rows_Sd, norm_S, limit, *, fold):
  """The maxima of groups of `fold` scores, of rows that are far apart.

  Adjacent rows would not do, since they often belong to one class.
  """
  size = len(rows_Sd) // fold
  score_QS = scan.scores(
    query_Bd, rows_Sd[: fold * size], norm_S[: fold * size], limit
  )
  return score_QS.reshape(len(score_QS), fold, size).max(1)
