"""Training batches that are decoded as they are needed."""

from collections.abc import Iterator, Mapping
import itertools
from typing import NamedTuple

import jax
import numpy as np

from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches import order
from mrl_jax.data.batches import parallel
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.images import decode
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.example import read_checked
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.vectors import Vectors
from mrl_jax.training import sharding


class Crops(NamedTuple):
  """How training images are cut to a square.

  `sizes` has the side in pixels by the epoch from which on it is used, 0 among
  them. `scale` is that of `decode.random_resized_crop`; None takes the central
  square, after the shorter side is resized if `resize`.
  """

  sizes: Mapping[int, int]
  scale: tuple[float, float] | None
  resize: bool = True

  def cut(
    self, example: Example, rng: np.random.Generator, epoch: int
  ) -> np.ndarray:
    """Decodes an example, uint8 [size, size, 3]."""
    size = self.sizes[max(first for first in self.sizes if first <= epoch)]
    if self.scale is None:
      resize = size if self.resize else 0
      return evaluation.decode_view(example, resize=resize, size=size)
    return decode.random_resized_crop(
      example.data, rng, size=size, scale=self.scale, as_seen=example.as_seen
    )


class Stream:
  """Training batches of `image` and `label`, int32 [N], in the order of epochs.

  They lie on the devices of the mesh; each process reads its own rows. The
  example at a position is a pure function of (seed, position), so that a run
  resumes at any step without reading those before. A subclass defines
  `_positions`, `_read` and `_stack`.
  """

  def __init__(
    self,
    source: Source | Vectors,
    batch_size: int,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
    num_threads: int = 0,
  ):
    self.steps_per_epoch = order.steps_per_epoch(len(source), batch_size)
    self._source, self._seed = source, seed
    self._batch_size, self._mesh = batch_size, mesh
    self._num_threads = num_threads
    self._rows = np.array(sharding.local_rows(batch_size, mesh))

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """The batch of each step from `start_step` on."""
    positions = map(self._positions, itertools.count(start_step))
    for found in parallel.map_batches(self._read, positions, self._num_threads):
      yield sharding.shard_batch(self._stack(found), self._mesh)

  def take(self, batch, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the images and labels of a batch; traced inside the step."""
    del step  # The batch has the step's images only.
    return batch['image'], batch['label']


class StreamBatches(Stream):
  """Batches of images, uint8 [N, size, size, 3], decoded in threads.

  The crop of an example is a pure function of (seed, position), too. A damaged
  image is replaced by the next example in the order.
  """

  def __init__(self, *args, crops: Crops, damage: DamageLog, **options):
    """Takes the arguments of `Stream`, and how images are cut."""
    super().__init__(*args, **options)
    self._crops, self._damage = crops, damage

  def _positions(self, step: int) -> list[tuple[int, int]]:
    epoch, step = divmod(step, self.steps_per_epoch)
    return [(epoch, int(x)) for x in step * self._batch_size + self._rows]

  def _stack(self, examples) -> dict[str, np.ndarray]:
    images, labels = zip(*examples, strict=True)
    return {'image': np.stack(images), 'label': np.array(labels, np.int32)}

  def _read(self, where: tuple[int, int]) -> tuple[np.ndarray, int]:
    epoch, position = where
    visits = order.epoch_order(self._seed, epoch, len(self._source))
    for attempt in range(len(visits)):
      index = visits[(position + attempt) % len(visits)]
      example = read_checked(self._source, int(index))
      rng = np.random.default_rng((self._seed, epoch, position, attempt))
      try:
        return self._crops.cut(example, rng, epoch), example.label
      except decode.DamagedImageError as error:
        self._damage.add(example.key, error)
    raise ValueError('every image of the training split is damaged')
