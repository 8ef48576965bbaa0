"""Which examples of one or several datasets a training step sees."""

from collections.abc import Sequence

import numpy as np

from mrl_jax.data.batches import order
from mrl_jax.data.text.examples import Texts

# Steps after which the sequence of datasets repeats.
_PERIOD = 1000


class Mix:
  """Datasets that a training takes turns with, a whole batch of one at a time.

  The dataset of a step and the order of its examples are pure functions of
  (seed, step), so that a run resumes at any step.
  """

  def __init__(
    self,
    sources: Sequence[Texts],
    weights: Sequence[float] = (),
    *,
    batch_size: int,
    seed: int,
  ):
    """Takes the datasets, and the share of the steps that each one has.

    Weights need not sum to 1; without any, each has as many batches an epoch
    as its size gives. Raises ValueError for weights that do not fit, labelled
    texts among pairs, or a dataset that is smaller than a batch.
    """
    if weights and len(weights) != len(sources):
      raise ValueError(
        f'weights {(*weights,)}: {len(sources)} datasets need one each'
      )
    if weights and not all(0 < x < np.inf for x in weights):
      raise ValueError(f'weights {(*weights,)}: must be positive')
    kinds = {source.kind for source in sources}
    if len(kinds) > 1 and 'labelled' in kinds:
      kinds = ', '.join(source.kind for source in sources)
      raise ValueError(f'datasets of {kinds}: must all be labelled or none')
    self.sources = tuple(sources)
    self._batch_size, self._seed = batch_size, seed
    self._steps_S = [order.steps_per_epoch(len(x), batch_size) for x in sources]
    self.steps_per_epoch = sum(self._steps_S)
    share_S = np.asarray(weights or self._steps_S, float)
    self._turns_P = _turns(share_S / share_S.sum(), seed)
    # Turns of each dataset before each step of a period.
    is_turn_PS = self._turns_P[:, None] == np.arange(len(sources))
    self._before_PS = np.cumsum(is_turn_PS, 0) - is_turn_PS
    self._each_S = is_turn_PS.sum(0)
    # The epoch whose order is at hand, of each dataset.
    self._orders: dict[int, tuple[int, np.ndarray]] = {}

  def __len__(self) -> int:
    return sum(map(len, self.sources))

  def rows(self, step: int) -> tuple[int, np.ndarray]:
    """The dataset of a step, and its batch: positions of examples, [N]."""
    period, place = divmod(step, len(self._turns_P))
    which = int(self._turns_P[place])
    turn = period * self._each_S[which] + self._before_PS[place, which]
    epoch, within = divmod(int(turn), self._steps_S[which])
    start = within * self._batch_size
    return which, self._order(which, epoch)[start : start + self._batch_size]

  def _order(self, which: int, epoch: int) -> np.ndarray:
    there, visits_N = self._orders.get(which, (-1, None))
    if there != epoch:
      # Datasets of one size are not to be visited in the same order.
      seed = self._seed + 2**32 * which
      visits_N = order.epoch_order(seed, epoch, len(self.sources[which]))
      self._orders[which] = epoch, visits_N
    return visits_N


def _turns(share_S: np.ndarray, seed: int) -> np.ndarray:
  """The dataset of each step of a period, int [P]; each has one at least."""
  if len(share_S) == 1:
    return np.zeros(1, int)
  ends_S = np.round(share_S.cumsum() * _PERIOD).astype(int)
  each_S = np.maximum(np.diff(ends_S, prepend=0), 1)
  turns_P = np.repeat(np.arange(len(share_S)), each_S)
  return np.random.default_rng((seed, len(share_S))).permutation(turns_P)
