"""Training batches of a split that is decoded once and kept on the devices."""

import collections
from collections.abc import Callable, Iterator
import itertools
import math
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils
import numpy as np

from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches import exchange
from mrl_jax.data.batches import order
from mrl_jax.data.batches import parallel
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.sources.example import Source
from mrl_jax.training import sharding

# Images that are decoded before more are given to the threads.
_BATCH = 256


class Rows(NamedTuple):
  """Examples that follow one another in a split, padded with zeros.

  Attributes:
    image: uint8 [R, H, W, 3], or vectors, float32 [R, D].
    label_R: int32.
    good_R: bool; False for damaged images and padding.
  """

  image: np.ndarray
  label_R: np.ndarray
  good_R: np.ndarray


def load(
  source: Source,
  rows: range,
  size: int,
  *,
  resize: int,
  image_size: int,
  damage: DamageLog,
  num_threads: int = 0,
) -> Rows:
  """Decodes the examples `rows` of a split, padded to `size` of them.

  Raises ValueError as `evaluation.view` does.
  """
  images_RHWC = np.zeros((size, image_size, image_size, 3), np.uint8)
  label_R = np.zeros(size, np.int32)
  good_R = np.zeros(size, bool)

  def fill(place):
    example = evaluation.view(
      source, rows[place], resize=resize, size=image_size, damage=damage
    )
    if example is not None:
      images_RHWC[place], label_R[place] = example
      good_R[place] = True

  places = range(len(rows))
  batches = (places[i : i + _BATCH] for i in range(0, len(rows), _BATCH))
  for _ in parallel.map_batches(fill, batches, num_threads):
    pass
  return Rows(images_RHWC, label_R, good_R)


def rows_each(num_examples: int, mesh: jax.sharding.Mesh) -> int:
  """The rows of a split that each device of `data` holds, padding included."""
  return -(-num_examples // mesh.shape['data'])


class ResidentBatches:
  """Gives each step the whole split and the epoch's order, to take rows from.

  The examples are split over the mesh axis `data`, in dataset order; the step
  exchanges those of its batch between the devices. The host sends only an
  order, once an epoch. Batches are the same on any number of devices.
  """

  def __init__(
    self,
    load: Callable[[range, int], Rows],
    num_examples: int,
    batch_size: int,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
  ):
    """Loads the split.

    Args:
      load: `(rows, size)` -> the examples `rows`, padded to `size`. Each
        process loads what its own devices hold.
      num_examples: the examples of the split, damaged ones included, which are
        left out of the batches.
      batch_size: the global batch size.
      mesh: the mesh.
      seed: seeds the order of the examples.

    Raises:
      ValueError: there is no full batch, or the devices cannot split it.
    """
    sharding.check_batch_size(batch_size, mesh)
    order.steps_per_epoch(num_examples, batch_size)  # Before all is decoded.
    self._batch_size = batch_size
    self._mesh = mesh
    self._seed = seed
    self._rows_MD, self._shape, label_N, good_N = _place(
      load, num_examples, mesh
    )
    self._labels_N = sharding.replicate(label_N, mesh)
    # Where the examples that are not damaged lie.
    self._good = good_N.nonzero()[0].astype(np.int32)
    self.steps_per_epoch = order.steps_per_epoch(len(self._good), batch_size)
    visits = self._visits(0)[: self.steps_per_epoch * batch_size]
    self._capacity = exchange.capacity(
      visits.reshape(-1, batch_size), mesh, rows_each(num_examples, mesh)
    )

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """The `batch` of `take` for each step from `start_step` on."""
    for step in itertools.count(start_step):
      epoch, within = divmod(step, self.steps_per_epoch)
      if step == start_step or within == 0:
        visits_N = sharding.replicate(self._visits(epoch), self._mesh)
      yield {
        'images': self._rows_MD,
        'labels': self._labels_N,
        'order': visits_N,
      }

  def take(self, batch, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes the images and labels of a step; traced inside the step."""
    start = step % self.steps_per_epoch * self._batch_size
    rows_B = jax.lax.dynamic_slice_in_dim(
      batch['order'], start, self._batch_size
    )
    image_BD = exchange.take(
      batch['images'], rows_B, self._mesh, self._capacity
    )
    rows_B = jax.lax.with_sharding_constraint(
      rows_B, sharding.over_data(self._mesh)
    )
    return image_BD.reshape(-1, *self._shape), batch['labels'][rows_B]

  def _visits(self, epoch: int) -> np.ndarray:
    """The rows in the order in which an epoch visits them, int32."""
    return self._good[order.epoch_order(self._seed, epoch, len(self._good))]


def _place(
  load: Callable[[range, int], Rows],
  num_examples: int,
  mesh: jax.sharding.Mesh,
) -> tuple[jax.Array, tuple[int, ...], np.ndarray, np.ndarray]:
  """Loads the rows of this process's devices, a device at a time.

  Returns the rows of all devices, flat [M, D], the shape of one, and the labels
  and `good` of the whole split, [N].
  """
  size = rows_each(num_examples, mesh)
  split, M = sharding.over_data(mesh), size * mesh.shape['data']
  # Devices along the axis `model` hold the same rows.
  devices = collections.defaultdict(list)
  for device, (part,) in split.addressable_devices_indices_map((M,)).items():
    devices[part.start or 0].append(device)
  # Zero means damaged, or loaded by another process. Vectors may have label -1.
  known_N = np.zeros(num_examples, np.int32)

  def put(start):
    rows = range(num_examples)[start : start + size]
    image, label_R, good_R = load(rows, size)
    known_R = np.where(good_R, label_R + 2, 0)
    known_N[rows.start : rows.stop] = known_R[: len(rows)]
    # Flat: in TPU memory, images would be copied to another layout each step.
    flat_RD = image.reshape(size, -1)
    parts = [jax.device_put(flat_RD, device) for device in devices[start]]
    return jax.block_until_ready(parts), image.shape[1:]

  shards = []
  # The host never holds the rows of two devices.
  for start in sorted(devices):
    parts, shape = put(start)
    shards += parts
  if jax.process_count() > 1:
    known_N = multihost_utils.process_allgather(known_N).max(0)
  rows_MD = jax.make_array_from_single_device_arrays(
    (M, math.prod(shape)), split, shards
  )
  good_N = known_N > 0
  return rows_MD, shape, np.where(good_N, known_N - 2, 0), good_N
