"""Training batches that are decoded as they are needed."""

from collections.abc import Iterator, Mapping
import concurrent.futures
import itertools
from typing import NamedTuple

import jax
import numpy as np

from mrl_jax import cores
from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches import order
from mrl_jax.data.batches import parallel
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.images import decode
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.example import read_checked
from mrl_jax.data.sources.example import Source
from mrl_jax.training import sharding


class Crops(NamedTuple):
  """How training images are cut to a square.

  Attributes:
    sizes: the side in pixels, by the epoch from which on it is used; epoch 0
      must be one.
    scale: range of the share of the area in a random crop, see
      `decode.random_resized_crop`; None: the central square is taken.
    resize: resize the shorter side before the central square is taken; False:
      images must have the right size.
  """

  sizes: Mapping[int, int]
  scale: tuple[float, float] | None
  resize: bool = True

  def size(self, epoch: int) -> int:
    return self.sizes[max(first for first in self.sizes if first <= epoch)]

  def cut(
    self, example: Example, rng: np.random.Generator, epoch: int
  ) -> np.ndarray:
    """Decodes an example, uint8 [size, size, 3]."""
    size = self.size(epoch)
    if self.scale is None:
      resize = size if self.resize else 0
      return evaluation.decode_view(example, resize=resize, size=size)
    return decode.random_resized_crop(
      example.data, rng, size=size, scale=self.scale, as_seen=example.as_seen
    )


class StreamBatches:
  """Batches of `image`, uint8 [N, size, size, 3], and `label`, int32 [N].

  They lie on the devices of the mesh; each process reads its own rows. The
  example at a position and its crop are pure functions of (seed, position), so
  that a run resumes at any step without reading those before. A damaged image
  is replaced by the next example in the order.
  """

  def __init__(
    self,
    source: Source,
    batch_size: int,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
    crops: Crops,
    damage: DamageLog,
    num_threads: int = 0,
  ):
    self.steps_per_epoch = order.steps_per_epoch(len(source), batch_size)
    self._source = source
    self._batch_size = batch_size
    self._mesh = mesh
    self._seed = seed
    self._crops = crops
    self._damage = damage
    self._num_threads = num_threads

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """The batch of each step from `start_step` on."""
    rows = sharding.local_rows(self._batch_size, self._mesh)
    with concurrent.futures.ThreadPoolExecutor(
      self._num_threads or cores.count()
    ) as pool:
      positions = (
        self._positions(step, rows) for step in itertools.count(start_step)
      )
      for examples in parallel.map_batches(pool, self._decode, positions):
        images, labels = zip(*examples, strict=True)
        batch = {'image': np.stack(images), 'label': np.array(labels, np.int32)}
        yield sharding.shard_batch(batch, self._mesh)

  def take(self, batch, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the images and labels of a batch; traced inside the step."""
    del step  # The batch has the step's images only.
    return batch['image'], batch['label']

  def _positions(self, step: int, rows: list[int]) -> list[tuple[int, int]]:
    epoch, step = divmod(step, self.steps_per_epoch)
    return [(epoch, step * self._batch_size + row) for row in rows]

  def _decode(self, where: tuple[int, int]) -> tuple[np.ndarray, int]:
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
