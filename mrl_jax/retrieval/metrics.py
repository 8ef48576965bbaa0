"""Retrieval metrics; the defaults are the paper's definitions (appendix E).

`neighbor_label_QK` holds the labels of each query's neighbours, nearest first;
a neighbour is relevant if its label is that of the query. Label -1 stands for
none: such a query does not count, and such a neighbour is never relevant. All
functions raise ValueError for a `k` outside [1, K], shapes that do not fit, or
labels that are not integers.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mrl_jax import checks
from mrl_jax import values
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval.graded import graded_summary as graded_summary
from mrl_jax.retrieval.k_recall import k_recall as k_recall

_K = checks.whole(-(2**31))


@checks.takes(k=_K)
def top_k_accuracy(
  neighbor_label_QK: np.ndarray, query_label_Q: np.ndarray, k: int = 1
) -> float:
  """Share of queries with a relevant neighbour among the first k (hit rate).

  The paper calls it top-k accuracy; at k = 1 it is the 1-NN accuracy.
  """
  return summary(neighbor_label_QK, query_label_Q, (k,))[f'top{k}']


@checks.takes(k=_K)
def precision_at_k(
  neighbor_label_QK: np.ndarray, query_label_Q: np.ndarray, k: int
) -> float:
  """Mean share of the first k neighbours that is relevant."""
  return summary(neighbor_label_QK, query_label_Q, (k,))[f'p{k}']


@checks.takes(k=_K, num_relevant=values.as_array)
def recall_at_k(
  neighbor_label_QK: np.ndarray,
  query_label_Q: np.ndarray,
  k: int,
  *,
  num_relevant: float | np.ndarray = 1300,
) -> float:
  """Mean share of the relevant rows that is among the first k neighbours.

  `num_relevant` is the number R of rows with the query's label: one number, or
  one for each query [Q], as `count_relevant` finds them. The paper's code takes
  1,300, the most images of an ImageNet class, for every dataset and class.
  Raises ValueError if a query has more hits than `num_relevant`.
  """
  return summary(
    neighbor_label_QK, query_label_Q, (k,), num_relevant=num_relevant
  )[f'r{k}']


@checks.takes(k=_K)
def mean_average_precision(
  neighbor_label_QK: np.ndarray,
  query_label_Q: np.ndarray,
  k: int,
  *,
  ap_denominator: Literal['k', 'min(k,R)'] = 'k',
  num_relevant: float | np.ndarray | None = None,
) -> float:
  """mAP@k: the mean over queries of `sum_i rel_i * precision@i / denominator`.

  The sum runs over the first k neighbours. The paper divides by k, the usual
  definition by min(k, R), where R is `num_relevant` as in `recall_at_k`.
  """
  return summary(
    neighbor_label_QK, query_label_Q, (k,), ap_denominator=ap_denominator,
    num_relevant=num_relevant,
  )[f'map{k}']  # fmt: skip


@checks.takes(
  neighbor_label_QK=checks.as_int64,
  query_label_Q=checks.as_int64,
  ks=checks.wholes(-(2**31)),
  ap_denominator=checks.choice('k', 'min(k,R)'),
)
def summary(
  neighbor_label_QK: np.ndarray,
  query_label_Q: np.ndarray,
  ks: Sequence[int] = (1, 10, 25, 50, 100),
  *,
  ap_denominator: Literal['k', 'min(k,R)'] = 'k',
  num_relevant: float | np.ndarray | None = None,
) -> dict[str, float]:
  """Computes all metrics at every k, which reads the labels only once.

  Returns for each k: `top{k}` (the hit rate), `map{k}`, `p{k}`, `distinct{k}`
  and, where `num_relevant` is given, `r{k}`, each equal to its function.
  """
  for k in ks:
    _check_k(neighbor_label_QK, k)
  if query_label_Q.shape != (len(neighbor_label_QK),):
    raise ValueError(
      f'neighbour labels of shape {neighbor_label_QK.shape} for query labels '
      f'of shape {query_label_Q.shape}: must be [Q, K] and [Q]'
    )
  counted_Q = query_label_Q != inputs.IGNORED
  if not counted_Q.any():
    raise ValueError('no query has a label: there is nothing to average over')
  neighbor_label_QK = neighbor_label_QK[counted_Q, : max(ks)]
  relevant_QK = neighbor_label_QK == query_label_Q[counted_Q, None]
  hits_QK = relevant_QK.cumsum(1, dtype=np.int32)
  # The precision at each relevant neighbour.
  gain_QK = relevant_QK * hits_QK / np.arange(1, max(ks) + 1)
  gain_QK = gain_QK.cumsum(1)
  relevant_Q = None
  if num_relevant is None and ap_denominator != 'k':
    raise ValueError(f'ap_denominator {ap_denominator!r}: needs num_relevant')
  if num_relevant is not None:
    relevant_Q = _num_relevant(num_relevant, counted_Q, hits_QK[:, -1])
  values = {}
  for k in ks:
    hits_Q, denominator = hits_QK[:, k - 1], k
    if relevant_Q is not None and ap_denominator != 'k':
      denominator = np.minimum(k, relevant_Q)
    values[f'top{k}'] = float((hits_Q > 0).mean())
    values[f'map{k}'] = float((gain_QK[:, k - 1] / denominator).mean())
    values[f'p{k}'] = float((hits_Q / k).mean())
    values[f'distinct{k}'] = distinct_labels(neighbor_label_QK, k)
    if relevant_Q is not None:
      values[f'r{k}'] = float((hits_Q / relevant_Q).mean())
  return values


@checks.takes(database_label_M=checks.as_int64, query_label_Q=checks.as_int64)
def count_relevant(
  database_label_M: np.ndarray,
  query_label_Q: np.ndarray,
  *,
  leave_one_out: inputs.LeaveOneOut = False,
) -> np.ndarray:
  """The number of database rows with the label of each query, int64 [Q].

  With `leave_one_out`, as in `neighbors.search`, a query's own row does not
  count.
  """
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


@checks.takes(neighbor_label_QK=checks.as_int64, k=_K)
def distinct_labels(neighbor_label_QK: np.ndarray, k: int) -> float:
  """Mean number of labels among the first k neighbours, not counting -1."""
  _check_k(neighbor_label_QK, k)
  label_Qk = np.sort(neighbor_label_QK[:, :k], axis=1)
  is_new = label_Qk != inputs.IGNORED
  is_new[:, 1:] &= label_Qk[:, 1:] != label_Qk[:, :-1]
  return float(is_new.sum(1).mean())


def _num_relevant(num_relevant, counted_Q, hits_Q):
  """Checks R and returns it as float64, [Q] or one number."""
  array = np.asarray(values.as_array('num_relevant', num_relevant))
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


def _check_k(neighbor_label_QK, k):
  if neighbor_label_QK.ndim != 2:
    raise ValueError(
      f'neighbour labels of shape {neighbor_label_QK.shape}: must be [Q, K]'
    )
  if not 1 <= k <= neighbor_label_QK.shape[1]:
    raise ValueError(
      f'k {k}: must be in [1, {neighbor_label_QK.shape[1]}], the neighbours '
      'given'
    )
