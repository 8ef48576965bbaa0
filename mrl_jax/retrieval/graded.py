"""Metrics of graded relevance, as trec_eval and BEIR define them."""

from collections.abc import Sequence

import numpy as np

from mrl_jax import checks


@checks.takes(
  grade_QK=checks.as_int64,
  judged_QJ=checks.as_int64,
  ks=checks.wholes(-(2**31)),
)
def graded_summary(
  grade_QK: np.ndarray,
  judged_QJ: np.ndarray,
  ks: Sequence[int] = (1, 10, 25, 50, 100),
) -> dict[str, float]:
  """Computes nDCG, MRR, success and recall at every k, and R-precision.

  Args:
    grade_QK: integer grades of each query's neighbours, nearest first. One
      above 0 is relevant; 0, also for a row without a judgement, is not.
    judged_QJ: those of all rows that were judged for a query, in any order,
      padded with 0. A query without a relevant row scores 0, and counts.
    ks: numbers of neighbours.

  Returns:
    `ndcg{k}`, whose gain is the grade itself, not 2^grade - 1; `mrr{k}`, the
    mean of 1 / rank of the first relevant neighbour, or 0 where none is among
    the first k; `success{k}`, the share of queries that have one; `r{k}`, the
    recall; and `rprec`, the precision among the first R neighbours, of R
    relevant rows. Where R is above K it is still divided by R.

  Raises:
    ValueError: k outside [1, K], shapes that do not fit, grades that are not
      integers, or more relevant neighbours than were judged relevant.
  """
  shapes = grade_QK.shape, judged_QJ.shape
  if [len(x) for x in shapes] != [2, 2] or shapes[0][0] != shapes[1][0]:
    raise ValueError(
      f'grades of shape {shapes[0]}, judged {shapes[1]}: must be [Q, K], [Q, J]'
    )
  (Q, K), most = grade_QK.shape, max(ks)
  if not Q:
    raise ValueError('no query was judged: there is nothing to average over')
  if min(ks) < 1 or most > K:
    bad = min(ks) if min(ks) < 1 else most
    raise ValueError(f'k {bad}: must be in [1, {K}], the neighbours given')
  gain_QK, ideal_QJ = np.maximum(grade_QK, 0), np.maximum(judged_QJ, 0)
  hits_QK, relevant_Q = (gain_QK > 0).cumsum(1), (ideal_QJ > 0).sum(1)
  if (hits_QK[:, -1] > relevant_Q).any():
    query = int((hits_QK[:, -1] > relevant_Q).argmax())
    raise ValueError(
      f'query {query} has {hits_QK[query, -1]} relevant neighbours, of '
      f'{relevant_Q[query]} rows that were judged relevant'
    )
  discount = 1 / np.log2(np.arange(2, max(K, ideal_QJ.shape[1]) + 2))
  ideal_QJ = -np.sort(-ideal_QJ, axis=1)
  dcg_QK, best_QJ = (
    np.cumsum(x * discount[: x.shape[1]], axis=1) for x in (gain_QK, ideal_QJ)
  )
  first_Q = (hits_QK > 0).argmax(1)
  values = {}
  for k in ks:
    best_Q = best_QJ[:, min(k, best_QJ.shape[1]) - 1] if best_QJ.size else 0
    hits_Q, least_Q = hits_QK[:, k - 1], np.maximum(relevant_Q, 1)
    share_Q = {
      'ndcg': dcg_QK[:, k - 1] / np.where(relevant_Q, best_Q, 1),
      'mrr': (hits_Q > 0) / (first_Q + 1),
      'success': hits_Q > 0,
      'r': hits_Q / least_Q,
    }
    values |= {f'{name}{k}': float(x.mean()) for name, x in share_Q.items()}
  last_Q = np.clip(relevant_Q, 1, K) - 1
  hits_Q = hits_QK[np.arange(Q), last_Q]
  values['rprec'] = float((hits_Q / np.maximum(relevant_Q, 1)).mean())
  return values
