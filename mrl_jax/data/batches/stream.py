"""Training batches that are decoded as they are needed."""

from collections.abc import Iterator, Mapping
import itertools
from typing import NamedTuple

import jax
import numpy as np

from mrl_jax.data.batches import augment
from mrl_jax.data.batches import boxes
from mrl_jax.data.batches import draws
from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches import host_arrays
from mrl_jax.data.batches import order
from mrl_jax.data.batches import parallel
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.example import read_checked
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.vectors import Vectors
from mrl_jax.training import sharding


class Crops(NamedTuple):
  """How training images are cut to a square.

  `sizes` has the side in pixels by the epoch from which on it is used, 0 among
  them. `scale` is that of `decode.random_region`; None takes the central
  square, after the shorter side is resized if `resize`. With `layouts`, those
  of `boxes.random_layouts`, random boxes are left for the step to resize.
  """

  sizes: Mapping[int, int]
  scale: tuple[float, float] | None
  resize: bool = True
  layouts: Mapping[int, boxes.Layout] | None = None

  def size(self, epoch: int) -> int:
    """The side of the training images in an epoch, pixels."""
    return self.sizes[max(first for first in self.sizes if first <= epoch)]

  def batch(
    self, count: int, epoch: int, memory: host_arrays.Arrays
  ) -> 'Batch':
    """Room for `count` examples, to be filled by `cut`."""
    size = self.size(epoch)
    arrays: dict[str, np.ndarray] = {'label': np.empty(count, np.int32)}
    if not self.layouts:
      arrays['image'] = memory.empty((count, size, size, 3))
      return Batch(arrays, epoch, size, None)
    placed = boxes.Boxes(count, self.layouts[size], memory)
    return Batch(arrays | placed.arrays, epoch, size, placed)

  def cut(
    self, example: Example, drawn: decode.Draws, batch: 'Batch', row: int
  ) -> None:
    """Decodes an example into a row of a batch."""
    size = batch.size
    if self.scale is None:
      resize = size if self.resize else 0
      view = evaluation.decode_view(example, resize=resize, size=size)
      batch.arrays['image'][row] = view
      return
    into = batch.boxes.into(row) if batch.boxes else jpeg_box.empty
    region = decode.random_region(
      example.data, drawn, size=size, scale=self.scale,
      as_seen=example.as_seen, into=into,
    )  # fmt: skip
    if batch.boxes:
      batch.boxes.place(row, region)
    else:
      batch.arrays['image'][row] = region.resize(size)


class Batch(NamedTuple):
  """Arrays of a batch on the host, the size of its crops, and their boxes."""

  arrays: dict[str, np.ndarray]
  epoch: int
  size: int
  boxes: boxes.Boxes | None


class Place(NamedTuple):
  """Where an example goes: its position in an epoch, its row of a batch."""

  epoch: int
  position: int
  batch: Batch
  row: int
  draws: decode.Draws | None


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
  image is replaced by the next example in the order. Where the step resizes,
  `center` and the arrays of `boxes.Boxes` take the place of `image`. With
  `alone` each crop has a generator of its own, as in runs begun before
  2026-11-29.
  """

  def __init__(
    self,
    *args,
    crops: Crops,
    damage: DamageLog,
    alone: bool = False,
    **options,
  ):
    """Takes the arguments of `Stream`, and how images are cut."""
    super().__init__(*args, **options)
    self._crops, self._damage, self._alone = crops, damage, alone
    self._memory = host_arrays.Arrays()

  def take(self, batch, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the images, of their final size, and labels; traced."""
    del step  # The batch has the step's images only.
    if not self._crops.layouts:
      return batch['image'], batch['label']
    layout = self._crops.layouts[batch['center'].shape[-1]]
    image_NHWC = augment.fetch_boxes(
      batch['page'], batch['start'], batch['stride'], layout.side
    )
    return augment.resize_boxes(
      image_NHWC, batch['box'], batch['center']
    ), batch['label']

  def _positions(self, step: int) -> list[Place]:
    epoch, step = divmod(step, self.steps_per_epoch)
    batch = self._crops.batch(len(self._rows), epoch, self._memory)
    positions = step * self._batch_size + self._rows
    first, last = int(positions.min()), int(positions.max())
    drawn = None
    if self._crops.scale and not self._alone:
      drawn = draws.draw(self._seed, epoch, first, last - first + 1)
    return [
      Place(epoch, position, batch, row, drawn and drawn[position - first])
      for row, position in enumerate(positions.tolist())
    ]

  def _stack(self, found) -> dict[str, np.ndarray]:
    batch = found[0]
    if batch.boxes:
      center_N2S = boxes.centers(batch.arrays['box'], batch.size)
      return batch.arrays | {'center': center_N2S}
    return batch.arrays

  def _read(self, place: Place) -> Batch:
    epoch, position, batch, row, drawn = place
    visits = order.epoch_order(self._seed, epoch, len(self._source))
    for attempt in range(len(visits)):
      index = visits[(position + attempt) % len(visits)]
      example = read_checked(self._source, int(index))
      if attempt or drawn is None:
        drawn = draws.draw_alone(self._seed, epoch, position, attempt)
      try:
        self._crops.cut(example, drawn, batch, row)
        batch.arrays['label'][row] = example.label
        return batch
      except decode.DamagedImageError as error:
        self._damage.add(example.key, error)
    raise ValueError('every image of the training split is damaged')
