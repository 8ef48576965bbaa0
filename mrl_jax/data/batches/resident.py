"""Training batches of a split that is decoded once and kept on the devices."""

from collections.abc import Iterator
import concurrent.futures
import itertools

import jax
import numpy as np

from mrl_jax import cores
from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches import order
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.sources.example import Source
from mrl_jax.training import sharding

_CHUNK = 4096


def load(
  source: Source,
  *,
  resize: int,
  size: int,
  damage: DamageLog,
  num_threads: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Decodes a split: images uint8 [N, size, size, 3] and labels int32 [N].

  Damaged images are left out. Raises ValueError as `evaluation.view` does.
  """
  images_NHWC = np.empty((len(source), size, size, 3), np.uint8)
  label_N = np.empty(len(source), np.int32)
  good_N = np.zeros(len(source), bool)

  def fill(index):
    example = evaluation.view(
      source, index, resize=resize, size=size, damage=damage
    )
    if example is not None:
      images_NHWC[index], label_N[index] = example
      good_N[index] = True

  with concurrent.futures.ThreadPoolExecutor(
    num_threads or cores.count()
  ) as pool:
    # In chunks, so that a large split does not queue a future for each image.
    for start in range(0, len(source), _CHUNK):
      list(pool.map(fill, range(len(source))[start : start + _CHUNK]))
  if good_N.all():
    return images_NHWC, label_N
  return images_NHWC[good_N], label_N[good_N]


class ResidentBatches:
  """Gives each step the whole split and the epoch's order, to take rows from.

  All images lie on every device, so that each can take any row: the host sends
  only an order, once an epoch.
  """

  def __init__(
    self,
    images_NHWC: np.ndarray,
    label_N: np.ndarray,
    batch_size: int,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
  ):
    self.steps_per_epoch = order.steps_per_epoch(len(label_N), batch_size)
    self._batch_size = batch_size
    self._mesh = mesh
    self._seed = seed
    self._images_NHWC = sharding.replicate(images_NHWC, mesh)
    self._label_N = sharding.replicate(label_N, mesh)

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """The `batch` of `take` for each step from `start_step` on."""
    for step in itertools.count(start_step):
      epoch, within = divmod(step, self.steps_per_epoch)
      if step == start_step or within == 0:
        visits = order.epoch_order(self._seed, epoch, len(self._label_N))
        visits_N = sharding.replicate(visits, self._mesh)
      yield {
        'images': self._images_NHWC,
        'labels': self._label_N,
        'order': visits_N,
      }

  def take(self, batch, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes the images and labels of a step; traced inside the step."""
    start = step % self.steps_per_epoch * self._batch_size
    rows_N = jax.lax.dynamic_slice_in_dim(
      batch['order'], start, self._batch_size
    )
    rows_N = jax.lax.with_sharding_constraint(
      rows_N, sharding.over_data(self._mesh)
    )
    return batch['images'][rows_N], batch['labels'][rows_N]
