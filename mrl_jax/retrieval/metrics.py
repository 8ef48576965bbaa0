"""Retrieval metrics; the defaults are the paper's definitions (appendix E).

`neighbor_label_QK` holds the labels of each query's neighbours, nearest first;
a neighbour is relevant if its label is the query's. All raise ValueError for a
`k` outside [1, K] or shapes that do not fit.
"""

from typing import Literal

import numpy as np


def top_k_accuracy(
  neighbor_label_QK: np.ndarray, query_label_Q: np.ndarray, k: int = 1
) -> float:
  """Share of queries with a relevant neighbour among the first k.

  At k = 1 this is 1-NN accuracy.
  """
  relevant_QK = _relevant(neighbor_label_QK, query_label_Q, k)
  return float(relevant_QK.any(1).mean())


def precision_at_k(
  neighbor_label_QK: np.ndarray, query_label_Q: np.ndarray, k: int
) -> float:
  """Mean share of the first k that is relevant."""
  return float(_relevant(neighbor_label_QK, query_label_Q, k).mean())


def recall_at_k(
  neighbor_label_QK: np.ndarray,
  query_label_Q: np.ndarray,
  k: int,
  *,
  num_relevant: float | np.ndarray = 1300,
) -> float:
  """Mean share of the relevant rows that the first k hold.

  `num_relevant`: rows of the database with the query's label, a number or one
  for each query [Q]. The paper's code divides by 1,300, the most images that an
  ImageNet class has, for every dataset and class.
  """
  hits_Q = _relevant(neighbor_label_QK, query_label_Q, k).sum(1)
  _check_positive(num_relevant)
  return float((hits_Q / num_relevant).mean())


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
  precision_QK = relevant_QK.cumsum(1) / np.arange(1, k + 1)
  if ap_denominator == 'k':
    denominator = k
  elif ap_denominator == 'min(k,R)' and num_relevant is not None:
    _check_positive(num_relevant)
    denominator = np.minimum(k, num_relevant)
  else:
    raise ValueError(
      f"ap_denominator {ap_denominator!r}: must be 'k', or 'min(k,R)' with "
      'num_relevant given'
    )
  return float(((relevant_QK * precision_QK).sum(1) / denominator).mean())


def _check_positive(num_relevant):
  if not np.all(np.asarray(num_relevant) > 0):
    raise ValueError(f'num_relevant {num_relevant}: must be positive')


def _relevant(neighbor_label_QK, query_label_Q, k):
  neighbor_label_QK = np.asarray(neighbor_label_QK)
  query_label_Q = np.asarray(query_label_Q)
  if neighbor_label_QK.ndim != 2 or query_label_Q.shape != (
    len(neighbor_label_QK),
  ):
    raise ValueError(
      f'neighbour labels of shape {neighbor_label_QK.shape} for query labels '
      f'of shape {query_label_Q.shape}: must be [Q, K] and [Q]'
    )
  if not 1 <= k <= neighbor_label_QK.shape[1]:
    raise ValueError(
      f'k {k}: must be in [1, {neighbor_label_QK.shape[1]}], the neighbours '
      'given'
    )
  return neighbor_label_QK[:, :k] == query_label_Q[:, None]
