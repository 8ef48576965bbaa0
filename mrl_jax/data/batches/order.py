"""The order of training examples: a pure function of (seed, epoch)."""

import functools

import numpy as np


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """The order in which an epoch visits the examples, int32 [num_examples]."""
  rng = np.random.default_rng((seed, epoch))
  order = rng.permutation(num_examples).astype(np.int32)
  order.flags.writeable = False
  return order


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """The number of full batches in an epoch; ValueError if there is none."""
  if batch_size > num_examples:
    raise ValueError(
      f'batch_size {batch_size}: there are only {num_examples} examples to '
      'train on; set --config.batch_size'
    )
  return num_examples // batch_size
