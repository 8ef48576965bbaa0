"""Retrieval metrics; the defaults are the paper's definitions (appendix E).

`neighbor_label_QK` holds the labels of each query's neighbours, nearest first;
a neighbour is relevant if its label is the query's. All raise ValueError for a
`k` outside [1, K], shapes that do not fit, or labels that are not integers:
floats of few bits would make neighbours of different classes. Label -1 means
that there is none: such a query does not count, and such a neighbour is never
relevant.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mrl_jax import checks
from mrl_jax.retrieval import inputs

# Scores of equal rows differ by less than this, as a share, in float32.
_ROUNDING = 1e-6
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
  relevant_QK, _ = _relevant(neighbor_label_QK, query_label_Q, k)
  return float(relevant_QK.any(1).mean())


def precision_at_k(
  neighbor_label_QK: np.ndarray, query_label_Q: np.ndarray, k: int
) -> float:
  """Mean share of the first k that is relevant."""
  relevant_QK, _ = _relevant(neighbor_label_QK, query_label_Q, k)
  return float(relevant_QK.mean())


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
  class. Raises ValueError where the hits are more than `num_relevant`.
  """
  relevant_QK, counted_Q = _relevant(neighbor_label_QK, query_label_Q, k)
  hits_Q = relevant_QK.sum(1)
  relevant_Q = _num_relevant(num_relevant, counted_Q, hits_Q)
  return float((hits_Q / relevant_Q).mean())


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
  relevant_QK, counted_Q = _relevant(neighbor_label_QK, query_label_Q, k)
  hits_QK = relevant_QK.cumsum(1)
  relevant_Q = _num_relevant(num_relevant, counted_Q, hits_QK[:, -1])
  denominator = _ap_denominator(
    ap_denominator, relevant_QK.shape[1], relevant_Q
  )
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
  ks = inputs.numbers(ks, 'ks')
  if not ks:
    raise ValueError('ks is empty: give at least one k')
  neighbor_label_QK = inputs.integers(neighbor_label_QK, 'labels')
  for k in ks:
    _check_k(neighbor_label_QK, k)
  relevant_QK, counted_Q = _relevant(neighbor_label_QK, query_label_Q, max(ks))
  neighbor_label_QK = neighbor_label_QK[counted_Q]
  hits_QK = relevant_QK.cumsum(1, dtype=np.int32)
  gain_QK = _gains(relevant_QK, hits_QK).cumsum(1)
  relevant_Q = _num_relevant(num_relevant, counted_Q, hits_QK[:, -1])
  values = {}
  for k in ks:
    hits_Q = hits_QK[:, k - 1]
    denominator = _ap_denominator(ap_denominator, k, relevant_Q)
    values[f'top{k}'] = float((hits_Q > 0).mean())
    values[f'map{k}'] = float((gain_QK[:, k - 1] / denominator).mean())
    values[f'p{k}'] = float((hits_Q / k).mean())
    values[f'distinct{k}'] = distinct_labels(neighbor_label_QK, k)
    if relevant_Q is not None:
      values[f'r{k}'] = float((hits_Q / relevant_Q).mean())
  return values


def count_relevant(
  database_label_M: np.ndarray,
  query_label_Q: np.ndarray,
  *,
  leave_one_out: inputs.LeaveOneOut = False,
) -> np.ndarray:
  """R [Q]: the rows of the database with each query's label; may be 0.

  `leave_one_out`, as in `neighbors.search`: a query's own row does not count.
  """
  database_label_M = inputs.integers(database_label_M, 'labels')
  query_label_Q = inputs.integers(query_label_Q, 'labels')
  if database_label_M.ndim != 1 or query_label_Q.ndim != 1:
    raise ValueError(
      f'labels of shapes {database_label_M.shape} and {query_label_Q.shape}: '
      'must be [M] and [Q]'
    )
  own_Q = inputs.own_rows(
    leave_one_out, len(query_label_Q), len(database_label_M)
  )
  label_C, count_C = np.unique(database_label_M, return_counts=True)
  index_Q = np.searchsorted(label_C, query_label_Q).clip(max=len(label_C) - 1)
  is_there_Q = label_C[index_Q] == query_label_Q
  is_there_Q &= query_label_Q != inputs.IGNORED
  count_Q = np.where(is_there_Q, count_C[index_Q], 0)
  if own_Q is not None:
    count_Q -= is_there_Q & (own_Q >= 0) & (
      database_label_M[own_Q] == query_label_Q
    )  # fmt: skip
  return count_Q


def k_recall(
  ids_QN: np.ndarray,
  true_ids_QK: np.ndarray,
  *,
  scores_QN: np.ndarray | None = None,
  true_scores_QK: np.ndarray | None = None,
) -> float:
  """k-Recall@N: the mean share of the k true neighbours that the N hold.

  Negative ids in `ids_QN` stand for rows that were not found. Ids alone do not
  tell copies of a row apart from other rows. With the scores of both, at the
  width that is the truth, a row found counts if it is as near as the farthest
  of the true neighbours, whichever of equal rows it is.
  """
  ids_QN = inputs.integers(ids_QN, 'ids')
  true_ids_QK = inputs.integers(true_ids_QK, 'true ids')
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
  if true_ids_QK.min() < 0:
    raise ValueError(f'true ids: {true_ids_QK.min()} is no row')
  if scores_QN is not None or true_scores_QK is not None:
    return _k_recall_by_scores(
      ids_QN, true_ids_QK, scores_QN, true_scores_QK
    )  # fmt: skip
  # A true id follows an equal one that was retrieved.
  merged = np.concatenate([ids_QN, true_ids_QK], axis=1)
  order = np.argsort(merged, axis=1, kind='stable')
  merged = np.take_along_axis(merged, order, axis=1)
  is_true = order >= ids_QN.shape[1]
  found = is_true[:, 1:] & ~is_true[:, :-1]
  found &= merged[:, 1:] == merged[:, :-1]
  return float(found.sum() / true_ids_QK.size)


def _k_recall_by_scores(ids_QN, true_ids_QK, scores_QN, true_scores_QK):
  if np.shape(scores_QN) != ids_QN.shape or (
    np.shape(true_scores_QK) != true_ids_QK.shape
  ):
    raise ValueError(
      f'scores of shapes {np.shape(scores_QN)} and {np.shape(true_scores_QK)}: '
      f'must be those of the ids, {ids_QN.shape} and {true_ids_QK.shape}'
    )
  least_Q1 = np.asarray(true_scores_QK, np.float64).min(1, keepdims=True)
  least_Q1 -= _ROUNDING * np.maximum(np.abs(least_Q1), 1)
  is_near = (np.asarray(scores_QN, np.float64) >= least_Q1) & (ids_QN >= 0)
  # A row that is listed twice counts once.
  ids_QN = np.sort(np.where(is_near, ids_QN, -1), axis=1)
  is_new = np.ones(ids_QN.shape, bool)
  is_new[:, 1:] = ids_QN[:, 1:] != ids_QN[:, :-1]
  hits_Q = (is_new & (ids_QN >= 0)).sum(1)
  K = true_ids_QK.shape[1]
  return float(np.minimum(hits_Q, K).mean() / K)


def distinct_labels(neighbor_label_QK: np.ndarray, k: int) -> float:
  """Mean number of different labels among the first k, without -1."""
  neighbor_label_QK = inputs.integers(neighbor_label_QK, 'labels')
  k = _check_k(neighbor_label_QK, k)
  label_Qk = np.sort(neighbor_label_QK[:, :k], axis=1)
  is_new = label_Qk != inputs.IGNORED
  is_new[:, 1:] &= label_Qk[:, 1:] != label_Qk[:, :-1]
  return float(is_new.sum(1).mean())


def _gains(relevant_QK, hits_QK):
  """The precision at each relevant neighbour, 0 at the others."""
  return relevant_QK * hits_QK / np.arange(1, relevant_QK.shape[1] + 1)


def _ap_denominator(name, k, relevant_Q):
  if name == 'k':
    return k
  if name == 'min(k,R)' and relevant_Q is not None:
    return np.minimum(k, relevant_Q)
  raise ValueError(
    f"ap_denominator {name!r}: must be 'k', or 'min(k,R)' with num_relevant "
    'given'
  )


def _num_relevant(num_relevant, counted_Q, hits_Q):
  """float64, of the queries that count [Q], or one number; None: not given."""
  if num_relevant is None:
    return None
  array = inputs.to_array(num_relevant, 'num_relevant')
  if array.dtype.kind not in 'iuf' or array.shape not in ((), counted_Q.shape):
    raise ValueError(
      f'num_relevant of {array.dtype} and shape {array.shape}: must be a '
      f'number, or one for each query, of shape {counted_Q.shape}'
    )
  relevant_Q = array.astype(np.float64)
  relevant_Q = relevant_Q[counted_Q] if array.ndim else relevant_Q
  if not (relevant_Q > 0).all():
    raise ValueError(f'num_relevant {relevant_Q.min():g}: must be positive')
  # An infinite one would make every recall 0.
  if not np.isfinite(relevant_Q).all() or (hits_Q > relevant_Q).any():
    place = int((np.isinf(relevant_Q) | (hits_Q > relevant_Q)).argmax())
    least = np.broadcast_to(relevant_Q, hits_Q.shape)[place]
    query = int(np.flatnonzero(counted_Q)[place])
    raise ValueError(
      f'num_relevant {least:g} of query {query}, {hits_Q[place]} of whose '
      'neighbours are relevant: must be a number that is not below that'
    )
  return relevant_Q


def _relevant(neighbor_label_QK, query_label_Q, k):
  """Of the queries that have a label [Q, k]; and which those are, bool [Q]."""
  neighbor_label_QK = inputs.integers(neighbor_label_QK, 'labels')
  query_label_Q = inputs.integers(query_label_Q, 'labels')
  if neighbor_label_QK.ndim != 2 or query_label_Q.shape != (
    len(neighbor_label_QK),
  ):
    raise ValueError(
      f'neighbour labels of shape {neighbor_label_QK.shape} for query labels '
      f'of shape {query_label_Q.shape}: must be [Q, K] and [Q]'
    )
  k = _check_k(neighbor_label_QK, k)
  counted_Q = query_label_Q != inputs.IGNORED
  if not counted_Q.any():
    raise ValueError('no query has a label: there is nothing to average over')
  relevant_QK = neighbor_label_QK[:, :k] == query_label_Q[:, None]
  return relevant_QK if counted_Q.all() else relevant_QK[counted_Q], counted_Q


def _check_k(neighbor_label_QK, k):
  k = inputs.number(k, 'k')
  if neighbor_label_QK.ndim != 2:
    raise ValueError(
      f'neighbour labels of shape {neighbor_label_QK.shape}: must be [Q, K]'
    )
  if not 1 <= k <= neighbor_label_QK.shape[1]:
    raise ValueError(
      f'k {k}: must be in [1, {neighbor_label_QK.shape[1]}], the neighbours '
      'given'
    )
  return k
