"""Retrieval metrics; the defaults are the paper's definitions (appendix E).

`neighbor_label_QK` holds the labels of each query's neighbours, nearest first;
a neighbour is relevant if its label is the query's. All raise ValueError for a
`k` outside [1, K], shapes that do not fit, or labels that are not integers:
floats of few bits would make neighbours of different classes.
"""

from collections.abc import Sequence
import sys
from typing import Any, Literal

import numpy as np

from mrl_jax import checks

_AP_DENOMINATOR = checks.choice('k', 'min(k,R)')


def _counts(name: str, value: Any) -> float | np.ndarray:
  """Takes a number, or an array of one for each query."""
  array = checks.as_array(name, value)
  if not array.ndim:
    return checks.number()(name, value)
  if array.ndim != 1 or array.dtype.kind not in 'iuf':
    raise ValueError(
      f'{name}, {checks.shown(array)}: must be a number, or one for each query'
    )
  return array


def top_k_accuracy(
  neighbor_label_QK: np.ndarray, query_label_Q: np.ndarray, k: int = 1
) -> float:
  """Share of queries with a relevant neighbour among the first k: the hit rate.

  The paper calls it top-k accuracy. At k = 1 it is 1-NN accuracy.
  """
  relevant_QK = _relevant(neighbor_label_QK, query_label_Q, k)
  return float(relevant_QK.any(1).mean())


def precision_at_k(
  neighbor_label_QK: np.ndarray, query_label_Q: np.ndarray, k: int
) -> float:
  """Mean share of the first k that is relevant."""
  return float(_relevant(neighbor_label_QK, query_label_Q, k).mean())


@checks.takes(num_relevant=_counts)
def recall_at_k(
  neighbor_label_QK: np.ndarray,
  query_label_Q: np.ndarray,
  k: int,
  *,
  num_relevant: float | np.ndarray = 1300,
) -> float:
  """Mean share of the relevant rows that the first k hold.

  `num_relevant`: rows of the database with the query's label, a number or one
  for each query [Q], as `count_relevant` finds them. The paper's code divides
  by 1,300, the most images that an ImageNet class has, for every dataset and
  class.
  """
  hits_Q = _relevant(neighbor_label_QK, query_label_Q, k).sum(1)
  _check_positive(num_relevant)
  return float((hits_Q / num_relevant).mean())


@checks.takes(
  ap_denominator=_AP_DENOMINATOR,
  num_relevant=_counts,
)
def mean_average_precision(
  neighbor_label_QK: np.ndarray,
  query_label_Q: np.ndarray,
  k: int,
  *,
  ap_denominator: Literal['k', 'min(k,R)'] = 'k',
  num_relevant: float | np.ndarray | None = None,
) -> float:
  """mAP@k: the mean over queries of `sum_i rel_i * precision@i / denominator`.

  The sum is over the first k neighbours. The paper divides by k; the common
  definition by min(k, R), with R = `num_relevant`, as in `recall_at_k`.
  """
  relevant_QK = _relevant(neighbor_label_QK, query_label_Q, k)
  denominator = _ap_denominator(ap_denominator, k, num_relevant)
  hits_QK = relevant_QK.cumsum(1)
  return float((_gains(relevant_QK, hits_QK).sum(1) / denominator).mean())


@checks.takes(
  ks=checks.wholes(-(2**31)),
  ap_denominator=_AP_DENOMINATOR,
  num_relevant=_counts,
)
def summary(
  neighbor_label_QK: np.ndarray,
  query_label_Q: np.ndarray,
  ks: Sequence[int] = (1, 10, 25, 50, 100),
  *,
  ap_denominator: Literal['k', 'min(k,R)'] = 'k',
  num_relevant: float | np.ndarray | None = None,
) -> dict[str, float]:
  """All of these at every k, relevance computed once.

  Returns, for each k: `top{k}` (the hit rate), `map{k}`, `p{k}`, `distinct{k}`
  and, where `num_relevant` is given, `r{k}`, each equal to its function.
  """
  _check_k(_neighbors(neighbor_label_QK), min(ks))
  relevant_QK = _relevant(neighbor_label_QK, query_label_Q, max(ks))
  hits_QK = relevant_QK.cumsum(1, dtype=np.int32)
  gain_QK = _gains(relevant_QK, hits_QK).cumsum(1)
  values = {}
  for k in ks:
    hits_Q = hits_QK[:, k - 1]
    denominator = _ap_denominator(ap_denominator, k, num_relevant)
    values[f'top{k}'] = float((hits_Q > 0).mean())
    values[f'map{k}'] = float((gain_QK[:, k - 1] / denominator).mean())
    values[f'p{k}'] = float((hits_Q / k).mean())
    values[f'distinct{k}'] = distinct_labels(neighbor_label_QK, k)
    if num_relevant is not None:
      _check_positive(num_relevant)
      values[f'r{k}'] = float((hits_Q / num_relevant).mean())
  return values


def count_relevant(
  database_label_M: np.ndarray, query_label_Q: np.ndarray
) -> np.ndarray:
  """R [Q]: the rows of the database with each query's label; may be 0."""
  database_label_M = _integers(database_label_M)
  query_label_Q = _integers(query_label_Q)
  label_C, count_C = np.unique(database_label_M, return_counts=True)
  index_Q = np.searchsorted(label_C, query_label_Q).clip(max=len(label_C) - 1)
  return np.where(label_C[index_Q] == query_label_Q, count_C[index_Q], 0)


def k_recall(ids_QN: np.ndarray, true_ids_QK: np.ndarray) -> float:
  """k-Recall@N: the mean share of the k true neighbours that the N hold.

  Negative ids in `ids_QN` stand for rows that were not found.
  """
  ids_QN, true_ids_QK = _integers(ids_QN), _integers(true_ids_QK)
  if (
    ids_QN.ndim != 2
    or true_ids_QK.ndim != 2
    or len(ids_QN) != len(true_ids_QK)
    or not true_ids_QK.size
  ):
    raise ValueError(
      f'ids of shape {ids_QN.shape} for true ids of shape {true_ids_QK.shape}: '
      'must be [Q, N] and [Q, K], K at least 1'
    )
  # A true id is odd, and follows its even one if that was retrieved.
  merged = np.concatenate([2 * ids_QN, 2 * true_ids_QK + 1], axis=1)
  merged.sort(axis=1)
  found = (merged[:, 1:] & 1 == 1) & (merged[:, 1:] == merged[:, :-1] + 1)
  return float(found.sum() / true_ids_QK.size)


def distinct_labels(neighbor_label_QK: np.ndarray, k: int) -> float:
  """Mean number of different labels among the first k."""
  neighbor_label_QK = _neighbors(neighbor_label_QK)
  _check_k(neighbor_label_QK, k)
  label_Qk = np.sort(neighbor_label_QK[:, :k], axis=1)
  return 1 + float((label_Qk[:, 1:] != label_Qk[:, :-1]).sum(1).mean())


def _gains(relevant_QK, hits_QK):
  """The precision at each relevant neighbour, 0 at the others."""
  return relevant_QK * hits_QK / np.arange(1, relevant_QK.shape[1] + 1)


def _ap_denominator(name, k, num_relevant):
  if name == 'k':
    return k
  if name == 'min(k,R)' and num_relevant is not None:
    _check_positive(num_relevant)
    return np.minimum(k, num_relevant)
  raise ValueError(
    f"ap_denominator {name!r}: must be 'k', or 'min(k,R)' with num_relevant "
    'given'
  )


def _check_positive(num_relevant):
  num_relevant = np.asarray(num_relevant)
  if not (num_relevant > 0).all():
    raise ValueError(f'num_relevant {num_relevant.min()}: must be positive')


def _relevant(neighbor_label_QK, query_label_Q, k):
  neighbor_label_QK = _neighbors(neighbor_label_QK)
  query_label_Q = _integers(query_label_Q)
  if query_label_Q.shape != (len(neighbor_label_QK),):
    raise ValueError(
      f'neighbour labels of shape {neighbor_label_QK.shape} for query labels '
      f'of shape {query_label_Q.shape}: must be [Q, K] and [Q]'
    )
  _check_k(neighbor_label_QK, k)
  return neighbor_label_QK[:, :k] == query_label_Q[:, None]


def _check_k(neighbor_label_QK, k):
  checks.whole(-sys.maxsize, sys.maxsize)('k', k)
  if not 1 <= k <= neighbor_label_QK.shape[1]:
    raise ValueError(
      f'k {k}: must be in [1, {neighbor_label_QK.shape[1]}], the neighbours '
      'given'
    )


def _neighbors(neighbor_label_QK):
  neighbor_label_QK = _integers(neighbor_label_QK)
  if neighbor_label_QK.ndim != 2 or not neighbor_label_QK.size:
    raise ValueError(
      f'neighbour labels of shape {neighbor_label_QK.shape}: must be [Q, K], '
      'not empty'
    )
  return neighbor_label_QK


def _integers(values):
  values = np.asarray(checks.as_array('labels or ids', values))
  if values.dtype.kind not in 'iu':
    raise ValueError(f'labels or ids of {values.dtype}: must be integers')
  return values
