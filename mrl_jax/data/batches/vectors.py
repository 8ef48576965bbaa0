"""Batches of vectors, for training and for evaluation."""

from collections.abc import Iterator
import concurrent.futures
import itertools

import jax
import numpy as np

from mrl_jax.data.batches import order
from mrl_jax.data.batches import parallel
from mrl_jax.data.batches.resident import Rows
from mrl_jax.data.sources.vectors import Vectors
from mrl_jax.training import sharding

_BLOCK = 16384


def load(source: Vectors, rows: range, size: int) -> Rows:
  """Reads the vectors `rows` of a split, padded to `size` of them."""
  row_RD = np.zeros((size, source.width), np.float32)
  for start in range(0, len(rows), _BLOCK):
    block = np.array(rows[start : start + _BLOCK])
    row_RD[start : start + len(block)] = source.read(block)
  label_R = np.zeros(size, np.int32)
  label_R[: len(rows)] = source.label_N[rows.start : rows.stop]
  return Rows(row_RD, label_R, np.arange(size) < len(rows))


class StreamVectors:
  """Training batches of `image`, float32 [N, D], and `label`, int32 [N].

  They are read as they are needed, and ordered as in `StreamBatches`.
  """

  def __init__(
    self,
    source: Vectors,
    batch_size: int,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
  ):
    self.steps_per_epoch = order.steps_per_epoch(len(source), batch_size)
    self._source = source
    self._batch_size = batch_size
    self._mesh = mesh
    self._seed = seed

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """The batch of each step from `start_step` on."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      # One item a batch: numpy gathers rows faster than several threads do.
      steps = ([step] for step in itertools.count(start_step))
      for (batch,) in parallel.map_batches(pool, self._read, steps):
        yield sharding.shard_batch(batch, self._mesh)

  def take(self, batch, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the rows and labels of a batch; traced inside the step."""
    del step  # The batch has the step's rows only.
    return batch['image'], batch['label']

  def _read(self, step: int) -> dict[str, np.ndarray]:
    epoch, step = divmod(step, self.steps_per_epoch)
    rows = np.array(sharding.local_rows(self._batch_size, self._mesh))
    visits_N = order.epoch_order(self._seed, epoch, len(self._source))
    positions_B = visits_N[step * self._batch_size + rows]
    return {
      'image': self._source.read(positions_B),
      'label': self._source.label_N[positions_B],
    }


class EvaluationVectors:
  """Batches of all rows in order, as those of `EvaluationBatches`."""

  def __init__(
    self, source: Vectors, batch_size: int, *, mesh: jax.sharding.Mesh
  ):
    """`batch_size` is rounded up to a multiple of the devices."""
    self._source = source
    self._mesh = mesh
    batch_size = min(batch_size, len(source))
    self.batch_size = -(-batch_size // mesh.size) * mesh.size

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    rows = np.array(sharding.local_rows(self.batch_size, self._mesh))
    for start in range(0, len(self._source), self.batch_size):
      mask_B = start + rows < len(self._source)
      positions_B = np.where(mask_B, start + rows, 0)
      batch = {
        'image': self._source.read(positions_B),
        'label': self._source.label_N[positions_B],
        'mask': mask_B,
      }
      yield sharding.shard_batch(batch, self._mesh)
