"""Evaluation batches: every example of a split once, in order."""

from collections.abc import Iterator
import functools

import jax
import numpy as np

from mrl_jax.data.batches import parallel
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.images import decode
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.example import read_checked
from mrl_jax.data.sources.example import Source
from mrl_jax.training import sharding


def view(
  source: Source, index: int, *, resize: int, size: int, damage: DamageLog
) -> tuple[np.ndarray, int] | None:
  """Decodes the evaluation view of an example; returns it with its label.

  Returns None for a damaged image. Raises ValueError, naming the example, for a
  label that is not a class, or an image of the wrong size where `resize` is 0.
  """
  example = read_checked(source, index)
  try:
    return decode_view(example, resize=resize, size=size), example.label
  except decode.DamagedImageError as error:
    damage.add(example.key, error)
    return None


def decode_view(example: Example, *, resize: int, size: int) -> np.ndarray:
  """`decode.view` of an example; its ValueError names the example."""
  try:
    return decode.view(
      example.data, resize=resize, size=size, as_seen=example.as_seen
    )
  except ValueError as error:
    raise ValueError(
      f'{example.key}: {error}; or set config.eval_resize to the shorter side '
      'to resize to'
    ) from None


def padded_size(
  batch_size: int, num_examples: int, mesh: jax.sharding.Mesh
) -> int:
  """The batch size, rounded up to a multiple of the devices."""
  return -(-min(batch_size, num_examples) // mesh.size) * mesh.size


class EvaluationBatches:
  """Batches of one shape, with `image`, `label` and `mask`, in dataset order.

  image: uint8 [N, size, size, 3]; label: int32 [N]; mask: bool [N], False for
  damaged images and for the padding of the last batch. The batches lie on the
  devices of the mesh; each process reads its own rows.
  """

  def __init__(
    self,
    source: Source,
    batch_size: int,
    *,
    mesh: jax.sharding.Mesh,
    resize: int,
    size: int,
    damage: DamageLog,
    num_threads: int = 0,
  ):
    """Takes what `padded_size` and `view` describe."""
    self._source, self._mesh = source, mesh
    self._size, self._num_threads = size, num_threads
    self._view = functools.partial(
      view, source, resize=resize, size=size, damage=damage
    )
    self.batch_size = padded_size(batch_size, len(source), mesh)

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    rows = sharding.local_rows(self.batch_size, self._mesh)
    count = len(self._source)
    starts = range(0, count, self.batch_size)
    indices = ([i + row for row in rows if i + row < count] for i in starts)
    for views in parallel.map_batches(self._view, indices, self._num_threads):
      yield sharding.shard_batch(self._stack(views, len(rows)), self._mesh)

  def _stack(self, views, length: int) -> dict[str, np.ndarray]:
    batch = {
      'image': np.zeros((length, self._size, self._size, 3), np.uint8),
      'label': np.zeros(length, np.int32),
      'mask': np.zeros(length, bool),
    }
    for row, example in enumerate(views):
      if example is not None:
        batch['image'][row], batch['label'][row] = example
        batch['mask'][row] = True
    return batch
