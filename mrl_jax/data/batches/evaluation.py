"""Evaluation batches: every example of a split once, in order."""

import collections
from collections.abc import Iterator
import functools

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax.data.batches import augment
from mrl_jax.data.batches import boxes
from mrl_jax.data.batches import host_arrays
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
    labels = [view and view[1] for view in views]
    batch = self._labelled(labels, length)
    image_NHWC = np.zeros((length, self._size, self._size, 3), np.uint8)
    for row in batch['mask'].nonzero()[0]:
      image_NHWC[row] = views[row][0]
    return batch | {'image': image_NHWC}

  def _labelled(self, labels, length: int) -> dict[str, np.ndarray]:
    """Labels and mask of a batch, from the labels of its first rows."""
    batch = {
      'label': np.zeros(length, np.int32),
      'mask': np.zeros(length, bool),
    }
    for row, label in enumerate(labels):
      if label is not None:
        batch['label'][row], batch['mask'][row] = label, True
    return batch


class ResizedOnDevices(EvaluationBatches):
  """The same batches, of images that the devices resize.

  The host decodes them and hands over their boxes. Values are at most one level
  off those of the host, as they are rounded once in place of twice.
  """

  def __init__(self, source: Source, *args, resize: int, **options):
    """Takes what `EvaluationBatches` does; `resize` is not 0."""
    super().__init__(source, *args, resize=resize, **options)
    self._resize, self._damage = resize, options['damage']
    self._memory = host_arrays.Arrays()
    rows = self.batch_size // self._mesh.shape['data']
    self._layout = layout = boxes.central_layout(
      source, resize=resize, size=self._size, rows=rows
    )

    def resized(batch):
      image_NHWC = augment.fetch_boxes(
        batch['page'], batch['start'], batch['stride'], layout.side
      )
      image_NHWC = augment.resize_boxes(
        image_NHWC, batch['box'], batch['center']
      )
      return {
        'image': jnp.round(image_NHWC).astype(jnp.uint8),
        'label': batch['label'],
        'mask': batch['mask'],
      }

    self._resized = jax.jit(
      resized, out_shardings=sharding.over_data(self._mesh)
    )

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    rows = sharding.local_rows(self.batch_size, self._mesh)
    count, begun = len(self._source), collections.deque()

    def places():
      for start in range(0, count, self.batch_size):
        placed = boxes.Boxes(len(rows), self._layout, self._memory)
        begun.append(placed)
        indices = enumerate(start + row for row in rows)
        yield [(placed, row, index) for row, index in indices if index < count]

    for found in parallel.map_batches(self._place, places(), self._num_threads):
      arrays = begun.popleft().arrays
      batch = self._labelled(found, len(rows))
      batch['center'] = boxes.centers(arrays['box'], self._size)
      yield self._resized(sharding.shard_batch(arrays | batch, self._mesh))

  def _place(self, place: tuple[boxes.Boxes, int, int]) -> int | None:
    """Puts an example's box into its batch; returns its label."""
    placed, row, index = place
    example = read_checked(self._source, index)
    try:
      region = decode.view_region(
        example.data, resize=self._resize, size=self._size,
        as_seen=example.as_seen, into=placed.into(row),
      )  # fmt: skip
    except decode.DamagedImageError as error:
      self._damage.add(example.key, error)
      return None
    placed.place(row, region)
    return example.label
