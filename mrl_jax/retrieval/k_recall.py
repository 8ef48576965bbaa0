"""The share of the true neighbours that a search has found."""

import numpy as np

from mrl_jax import checks

# Rounding error of float32 scores, as a share: equal rows differ by less.
_ROUNDING = 1e-6


@checks.takes(ids_QN=checks.as_int64, true_ids_QK=checks.as_int64)
def k_recall(
  ids_QN: np.ndarray,
  true_ids_QK: np.ndarray,
  *,
  scores_QN: np.ndarray | None = None,
  true_scores_QK: np.ndarray | None = None,
) -> float:
  """k-Recall@N: the mean share of the k true neighbours among the N found.

  Negative ids in `ids_QN` stand for rows that were not found. By ids alone a
  copy of a true neighbour counts as a miss. With the scores of both, at the
  width that defines the truth, a row counts if it is as near as the farthest of
  the true neighbours. Raises ValueError for shapes that do not fit.
  """
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
    return _by_scores(ids_QN, true_ids_QK, scores_QN, true_scores_QK)
  # Sorted, a true id comes right after an equal id that was found.
  merged = np.concatenate([ids_QN, true_ids_QK], axis=1)
  order = np.argsort(merged, axis=1, kind='stable')
  merged = np.take_along_axis(merged, order, axis=1)
  is_true = order >= ids_QN.shape[1]
  found = is_true[:, 1:] & ~is_true[:, :-1]
  found &= merged[:, 1:] == merged[:, :-1]
  return float(found.sum() / true_ids_QK.size)


def _by_scores(ids_QN, true_ids_QK, scores_QN, true_scores_QK):
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
