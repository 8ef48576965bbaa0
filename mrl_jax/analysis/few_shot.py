"""Classification without training: nearest class means, and k-NN votes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import prefixes

# Queries compared at a time.
_BLOCK = 4096


class FewShot(NamedTuple):
  """Mean and deviation of the accuracy at each width [G], a share."""

  mean: np.ndarray
  std: np.ndarray


@checks.takes(
  support_MD=checks.numbers('MD'),
  query_QD=checks.numbers('QD'),
  dims=checks.wholes(),
  shots=checks.whole(),
  ways=checks.whole(),
  repeats=checks.whole(),
  seed=checks.whole(0),
)
def few_shot(
  support_MD: np.ndarray,
  support_label_M: np.ndarray,
  query_QD: np.ndarray,
  query_label_Q: np.ndarray,
  *,
  dims: Sequence[int],
  shots: int,
  ways: int | None = None,
  repeats: int = 5,
  seed: int = 0,
) -> FewShot:
  """Classifies queries by the nearest class mean of a few examples, by cosine.

  Support rows are normalised before their mean is taken. Ties go to the lower
  class. Of memmaps, only the chosen support rows and blocks of queries are
  read.

  Args:
    support_MD: the embeddings that examples are drawn from.
    support_label_M: their classes; rows of label -1 are left out.
    query_QD: the embeddings to classify.
    query_label_Q: their classes; those of label -1 do not count.
    dims: the widths.
    shots: the number of examples drawn for each class.
    ways: the number of classes drawn; queries of other classes do not count.
      None means all classes of the queries.
    repeats: how often to draw; all widths share the draws.
    seed: the seed of the draws.

  Raises:
    ValueError: fewer classes than ways, a class with fewer examples than shots,
      no repeats, or dims that do not fit.
  """
  dims = nesting.validate(dims, support_MD.shape[1])
  support_label_M = inputs.labels(
    support_label_M, 'support labels', len(support_MD)
  )
  query_label_Q = inputs.labels(query_label_Q, 'query labels', len(query_QD))
  classes = np.unique(query_label_Q[query_label_Q != inputs.IGNORED])
  ways = len(classes) if ways is None else ways
  if not 2 <= ways <= len(classes):
    raise ValueError(f'ways {ways}: must be in [2, {len(classes)}]')
  order_M = np.argsort(support_label_M, kind='stable')
  starts, ends = (
    np.searchsorted(support_label_M, classes, side, sorter=order_M)
    for side in ('left', 'right')
  )
  if (ends - starts).min() < shots:
    c = (ends - starts).argmin()
    raise ValueError(
      f'class {classes[c]} has {ends[c] - starts[c]} examples: {shots} shots '
      'need as many'
    )
  rng = np.random.default_rng(seed)
  accuracies = []
  for _ in range(repeats):
    chosen = np.sort(rng.choice(len(classes), ways, replace=False))
    rows = np.concatenate(
      [
        order_M[rng.choice(np.arange(starts[c], ends[c]), shots, replace=False)]
        for c in chosen
      ]
    )
    support_ND = np.asarray(support_MD[rows], np.float32)
    checks.all_finite('support_MD', support_ND)
    means = []
    for dim in dims:
      unit_WSd = prefixes.unit(support_ND, dim).reshape(ways, shots, dim)
      means.append(prefixes.unit(unit_WSd.mean(1), dim))
    counted = np.flatnonzero(np.isin(query_label_Q, classes[chosen]))
    right_GQ = _nearest(query_QD, counted, means)
    right_GQ = classes[chosen][right_GQ] == query_label_Q[counted][None]
    accuracies.append(right_GQ.mean(1))
  return FewShot(np.mean(accuracies, 0), np.std(accuracies, 0))


@checks.takes(neighbor_label_QK=checks.integers('QK'))
def vote(neighbor_label_QK: np.ndarray) -> np.ndarray:
  """The most frequent label of each row [Q]; ties go to the nearer neighbour.

  Neighbours of label -1 have no vote; where all are, the winner is -1.
  """
  neighbor_label_QK = checks.as_int64('labels', neighbor_label_QK)
  same_QKK = neighbor_label_QK[:, :, None] == neighbor_label_QK[:, None, :]
  same_QKK &= (neighbor_label_QK != inputs.IGNORED)[:, None, :]
  winner_Q = same_QKK.sum(2).argmax(1)
  return neighbor_label_QK[np.arange(len(winner_Q)), winner_Q]


def _nearest(query_QD, counted, means) -> np.ndarray:
  """The index of the mean nearest to each counted query, int [G, counted]."""
  nearest = []
  for start in range(0, len(counted), _BLOCK):
    # Queries need no normalising: their length does not change the order.
    block_BD = np.asarray(query_QD[counted[start : start + _BLOCK]], np.float32)
    checks.all_finite('query_QD', block_BD)
    nearest.append(
      [
        (block_BD[:, : mean_Wd.shape[1]] @ mean_Wd.T).argmax(1)
        for mean_Wd in means
      ]
    )
  return np.concatenate(nearest, axis=1)
