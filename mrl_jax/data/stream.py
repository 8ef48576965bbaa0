"""Training batches decoded from the encoded images as they are needed."""

from collections.abc import Iterator
import concurrent.futures
import itertools

import numpy as np

from mrl_jax import sharding
from mrl_jax.data import decode
from mrl_jax.data import order
from mrl_jax.data import parallel
from mrl_jax.data.damage import DamageLog
from mrl_jax.data.source import Source


class StreamBatches:
  """Batches `image` (uint8 [N, size, size, 3], random crops) and `label`.

  Which example stands at a position, and its crop, are pure functions of
  (seed, position), so a run may resume at any step at once. A damaged image is
  replaced by the example that follows it in the order.
  """

  def __init__(
    self,
    source: Source,
    batch_size: int,
    *,
    seed: int,
    size: int,
    scale: tuple[float, float],
    damage: DamageLog,
    num_threads: int = 0,
  ):
    """See `decode.random_resized_crop` for `size` and `scale`."""
    self.steps_per_epoch = order.steps_per_epoch(len(source), batch_size)
    self.batch_size = batch_size
    self._source = source
    self._seed = seed
    self._size = size
    self._scale = scale
    self._damage = damage
    self._num_threads = num_threads

  def batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of the batch of each step from `start_step` on."""
    with concurrent.futures.ThreadPoolExecutor(
      parallel.num_threads(self._num_threads)
    ) as pool:
      for examples in parallel.map_batches(
        pool, self._decode, map(self._positions, itertools.count(start_step))
      ):
        images, labels = zip(*examples, strict=True)
        yield {'image': np.stack(images), 'label': np.array(labels, np.int32)}

  def _positions(self, step: int) -> list[tuple[int, int]]:
    epoch, step = divmod(step, self.steps_per_epoch)
    rows = sharding.local_rows(self.batch_size)
    start = step * self.batch_size
    return [(epoch, start + row) for row in range(rows.start, rows.stop)]

  def _decode(self, where: tuple[int, int]) -> tuple[np.ndarray, int]:
    epoch, position = where
    visits = order.epoch_order(self._seed, epoch, len(self._source))
    # The damage log ends the loop at its limit.
    for attempt in itertools.count():
      example = self._source.read(
        int(visits[(position + attempt) % len(visits)])
      )
      rng = np.random.default_rng((self._seed, epoch, position, attempt))
      try:
        image = decode.random_resized_crop(
          example.data, rng, size=self._size, scale=self._scale
        )
        return image, example.label
      except decode.DamagedImageError as error:
        self._damage.add(example.key, error)
        if attempt + 1 == len(visits):
          raise ValueError('every image of the split is damaged') from error
