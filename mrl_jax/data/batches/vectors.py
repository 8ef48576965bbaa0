"""Batches of vectors, for training and for evaluation."""

from collections.abc import Iterator

import jax
import numpy as np

from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches import order
from mrl_jax.data.batches.resident import Rows
from mrl_jax.data.batches.stream import Stream
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


class StreamVectors(Stream):
  """Training batches of vectors, float32 [N, D], under the name `image`."""

  def __init__(self, *args, **options):
    """Takes the arguments of `Stream`."""
    super().__init__(*args, num_threads=1, **options)

  def _positions(self, step: int) -> list[int]:
    # One item a batch: numpy gathers rows faster than several threads do.
    return [step]

  def _stack(self, read) -> dict[str, np.ndarray]:
    return read[0]

  def _read(self, step: int) -> dict[str, np.ndarray]:
    epoch, step = divmod(step, self.steps_per_epoch)
    visits_N = order.epoch_order(self._seed, epoch, len(self._source))
    positions_B = visits_N[step * self._batch_size + self._rows]
    return {
      'image': self._source.read(positions_B),
      'label': self._source.label_N[positions_B],
    }


class EvaluationVectors:
  """Batches of all rows in order, as those of `EvaluationBatches`."""

  def __init__(
    self, source: Vectors, batch_size: int, *, mesh: jax.sharding.Mesh
  ):
    self._source = source
    self._mesh = mesh
    self.batch_size = evaluation.padded_size(batch_size, len(source), mesh)

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
