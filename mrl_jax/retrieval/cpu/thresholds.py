"""Floors: what a score must reach to be looked at, by a sample of the rows."""

from collections.abc import Iterator
import concurrent.futures
import math
from typing import NamedTuple

import jax
import numpy as np

from mrl_jax import cores
from mrl_jax.retrieval.cpu import scan
from mrl_jax.retrieval.cpu.candidates import UNLIMITED

# Rows sampled for the floors, at narrow and at wide widths.
_SAMPLE, _WIDE_SAMPLE, _WIDE = 8192, 2048, 256
# Of them, rows of a file that stand together.
_RUN = 16
# Queries whose floors are looked for together.
_QUERIES = 512
# Of scores in float32, as a share.
_ROUNDING = np.float32(1e-6)
# Scores of the sample that one maximum stands for while it is sorted.
_SPREAD = 8


class Sample(NamedTuple):
  """Rows from all over the database; `norm_S` divides their scores.

  Then the scores are cut to [-most, most].
  """

  ids_S: np.ndarray
  rows_Sd: np.ndarray
  norm_S: np.ndarray
  most: np.float32


def sample_rows(
  embedding_MD: np.ndarray, norm_M: np.ndarray | None, dim: int
) -> Sample:
  """Some of the rows, as far as `dim`, in float32."""
  M = len(embedding_MD)
  size = min(M, _WIDE_SAMPLE if dim >= _WIDE else _SAMPLE)
  ids_S = np.linspace(0, M - 1, size).astype(np.int64)
  if isinstance(embedding_MD, np.memmap) and size < M:
    # A disk reads runs of rows hundreds of times as fast.
    first_S = np.linspace(0, M - _RUN, size // _RUN).astype(np.int64)
    ids_S = np.unique(first_S[:, None] + np.arange(_RUN))
  rows_Sd = np.asarray(embedding_MD[ids_S, :dim], np.float32)
  if norm_M is None:
    return Sample(ids_S, rows_Sd, np.ones(len(ids_S), np.float32), UNLIMITED)
  return Sample(ids_S, rows_Sd, norm_M[ids_S], np.float32(1))


def falling(
  query_Qd: np.ndarray,
  sample: Sample,
  M: int,
  k: int,
  pool: concurrent.futures.Executor,
) -> Iterator[np.ndarray]:
  """Floors of all queries, lower and lower; the last one everything reaches.

  About k of the M rows are expected to reach the first one, with room to spare.
  """
  size = len(sample.ids_S)
  expected = k * size / M
  # So many deviations that one query in some thousand falls short.
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
  """At most the `rank`-th best score of each query, and hardly less."""
  fold = _SPREAD if 8 * rank * _SPREAD <= len(sample.rows_Sd) else 1
  score_BS = np.asarray(_spread_maxima(query_Bd, *sample[1:], fold=fold))
  place = score_BS.shape[1] - rank
  parts = np.array_split(score_BS, cores.count())
  kth = pool.map(lambda x: np.partition(x, place, axis=1)[:, place], parts)
  kth_B = np.concatenate(list(kth))
  # A product of another shape may round the same row to less.
  return kth_B - _ROUNDING * np.abs(kth_B)


@jax.jit(static_argnames='fold')
def _spread_maxima(query_Bd, rows_Sd, norm_S, most, *, fold):
  """Maxima of `fold` scores each, of rows that stand far from each other.

  Neighbours would not do: they often are of one class.
  """
  size = len(rows_Sd) // fold
  score_QS = scan.scores(
    query_Bd, rows_Sd[: fold * size], norm_S[: fold * size], most
  )
  return score_QS.reshape(len(score_QS), fold, size).max(1)
