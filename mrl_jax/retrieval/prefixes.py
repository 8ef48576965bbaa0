"""Prefixes of unit length, and what indices of them check before a search."""

from collections.abc import Iterator

import jax
import numpy as np

from mrl_jax.retrieval import inputs
from mrl_jax.retrieval.cpu.compiled import sums

# Rows worked on at a time.
_BLOCK = 16384


def unit(rows_ND: np.ndarray | jax.Array, dim: int, first: int = 0):
  """Slices and normalises rows, float32 [N, dim].

  A prefix shorter than `inputs.SHORTEST` becomes zeros. Raises ValueError for a
  row with NaN or infinity; `first` is the number of the first row.
  """
  row_Nd = np.ascontiguousarray(np.asarray(rows_ND[:, :dim]), np.float32)
  unit_Nd = np.empty(row_Nd.shape, np.float32)
  bad = _unit(inputs.read_only(row_Nd), unit_Nd)
  if bad >= 0:
    raise ValueError(f'row {first + bad} is not finite')
  return unit_Nd


@sums
def _unit(row_Nd, unit_Nd):
  """Writes rows of length 1; returns the number of one that is not finite."""
  for n in range(len(row_Nd)):
    norm = _norm(row_Nd, n)
    if not norm < np.inf:
      return n
    if norm < inputs.SHORTEST:
      norm = np.float32(np.inf)
    for i in range(row_Nd.shape[1]):
      unit_Nd[n, i] = row_Nd[n, i] / norm
  return -1


@sums
def first_bad(row_ND):
  """The first row that is not finite, too short or too long; -1 for none."""
  for n in range(len(row_ND)):
    norm = _norm(row_ND, n)
    if not (norm < np.inf and norm >= inputs.SHORTEST):
      return n
  return -1


@sums
def _norm(row_ND, n):
  square = np.float32(0)
  for i in range(row_ND.shape[1]):
    square += row_ND[n, i] * row_ND[n, i]
  return np.sqrt(square)


def unit_blocks(
  rows_MD: np.ndarray | jax.Array, dim: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (number of the first row, unit prefixes [B, dim]) of all rows."""
  for first in range(0, len(rows_MD), _BLOCK):
    yield first, unit(rows_MD[first : first + _BLOCK], dim, first)


def unit_sample(
  rows_MD: np.ndarray | jax.Array, dim: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ids [N] of at most `size` random rows, sorted, and their unit prefixes."""
  M = len(rows_MD)
  random = np.random.default_rng(seed)
  ids_N = np.sort(random.choice(M, min(size, M), replace=False))
  parts = [
    unit(rows_MD[ids_N[start : start + _BLOCK]], dim)
    for start in range(0, len(ids_N), _BLOCK)
  ]
  return ids_N, np.concatenate(parts)


def check_shortlist(
  k: int, rerank_dim: int | None, shortlist: int | None, M: int
) -> int:
  """The number of rows that the first stage of a search has to find.

  Raises ValueError for one of `rerank_dim` and `shortlist` without the other,
  or unless 1 <= k <= shortlist <= M.
  """
  if (rerank_dim is None) != (shortlist is None):
    raise ValueError(
      f'rerank_dim {rerank_dim}, shortlist {shortlist}: give both or neither'
    )
  count = k if shortlist is None else shortlist
  if not 1 <= k <= count <= M:
    raise ValueError(
      f'k {k} of a shortlist of {count}: needs 1 <= k <= shortlist <= {M} rows'
    )
  return count
