"""Every example of a split once, in order, in batches of one shape."""

from collections.abc import Iterator
import concurrent.futures

import numpy as np

from mrl_jax import sharding
from mrl_jax.data import decode
from mrl_jax.data import parallel
from mrl_jax.data.damage import DamageLog
from mrl_jax.data.source import Source


class EvaluationBatches:
  """Batches `image` (uint8), `label` (int32) and `mask` (bool) of a split.

  The last batch is padded; padding and damaged images have `mask` False. Each
  process gets its own rows of every global batch.
  """

  def __init__(
    self,
    source: Source,
    batch_size: int,
    *,
    resize: int,
    size: int,
    damage: DamageLog,
    num_threads: int = 0,
  ):
    """See `decode.resize_and_crop` for `resize` and `size`."""
    self._source = source
    self._resize = resize
    self._size = size
    self._damage = damage
    self._num_threads = num_threads
    self.batch_size = batch_size
    self.num_examples = len(source)

  def __len__(self) -> int:
    return -(-self.num_examples // self.batch_size)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    rows = sharding.local_rows(self.batch_size)
    starts = range(rows.start, len(self) * self.batch_size, self.batch_size)
    indices = (range(start, start + rows.stop - rows.start) for start in starts)
    with concurrent.futures.ThreadPoolExecutor(
      parallel.num_threads(self._num_threads)
    ) as pool:
      for examples in parallel.map_batches(pool, self._decode, indices):
        yield self._stack(examples)

  def _decode(self, index):
    if index >= self.num_examples:
      return None
    example = self._source.read(index)
    try:
      image = decode.resize_and_crop(
        example.data, resize=self._resize, size=self._size
      )
    except decode.DamagedImageError as error:
      self._damage.add(example.key, error)
      return None
    return image, example.label, example.key

  def _stack(self, examples):
    shape = (self._size, self._size, 3)
    batch = {
      'image': np.zeros((len(examples), *shape), np.uint8),
      'label': np.zeros(len(examples), np.int32),
      'mask': np.zeros(len(examples), bool),
    }
    for row, example in enumerate(examples):
      if example is not None:
        image, label, _ = example
        batch['image'][row] = image
        batch['label'][row] = label
        batch['mask'][row] = True
    return batch
