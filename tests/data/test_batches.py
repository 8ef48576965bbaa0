"""What training and evaluation are fed."""

import itertools

import chex
import jax
import numpy as np
from PIL import ExifTags
from PIL import Image
import pytest

from mrl_jax.data.batches import boxes
from mrl_jax.data.batches import draws
from mrl_jax.data.batches import host_arrays
from mrl_jax.data.batches import order
from mrl_jax.data.batches import resident
from mrl_jax.data.batches import stream
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.evaluation import EvaluationBatches
from mrl_jax.data.batches.evaluation import ResizedOnDevices
from mrl_jax.data.images import decode
from mrl_jax.data.sources.example import Example
from mrl_jax.training import sharding
from tests import images
from tests.data.test_jpeg_box import jpeg
from tests.data.test_jpeg_grid import gridded


class ListSource:
  """Images whose label is their number; those in `damaged` are cut short."""

  num_classes = 1000

  def __init__(self, count, damaged=()):
    self._data = [images.encoded(i) for i in range(count)]
    for index in damaged:
      self._data[index] = self._data[index][:50]

  def __len__(self):
    return len(self._data)

  def read(self, index):
    return Example(self._data[index], index, f'number {index}')


def evaluation(
  source,
  batch_size,
  damage=None,
  num_devices=1,
  kind=EvaluationBatches,
  sizes=(8, 8),
):
  batches = kind(
    source,
    batch_size,
    mesh=sharding.make_mesh(num_devices),
    resize=sizes[0],
    size=sizes[1],
    damage=damage or DamageLog(0),
    num_threads=2,
  )
  return [jax.device_get(batch) for batch in batches]


@pytest.mark.parametrize(
  'count, batch_size, num_devices, padded',
  [(7, 3, 1, 9), (6, 3, 1, 6), (2, 5, 1, 2), (1, 1, 1, 1), (11, 5, 8, 16)],
)
def test_evaluation_counts_everything_once(
  count, batch_size, num_devices, padded
):
  batches = evaluation(ListSource(count), batch_size, num_devices=num_devices)
  mask = np.concatenate([batch['mask'] for batch in batches])
  labels = np.concatenate([batch['label'] for batch in batches])
  images_NHWC = np.concatenate([batch['image'] for batch in batches])
  assert len(mask) == padded
  np.testing.assert_array_equal(labels[mask], np.arange(count))
  for index, image in enumerate(images_NHWC[mask]):
    expected = decode.view(images.encoded(index), resize=8, size=8)
    np.testing.assert_array_equal(image, expected)
  assert not images_NHWC[~mask].any()


def test_evaluation_splits_the_rows_over_processes(monkeypatch):
  whole = evaluation(ListSource(10), 4)
  monkeypatch.setattr(sharding, 'shard_batch', lambda batch, mesh: batch)
  parts = []
  for rows in ([0, 1], [2, 3]):
    monkeypatch.setattr(sharding, 'local_rows', lambda *_, rows=rows: rows)
    parts.append(evaluation(ListSource(10), 4))
  for batch, *shares in zip(whole, *parts, strict=True):
    joined = jax.tree.map(lambda *x: np.concatenate(x), *shares)
    chex.assert_trees_all_equal(joined, batch)


def test_rows_of_one_process_are_all_rows():
  assert sharding.local_rows(16, sharding.make_mesh(8)) == list(range(16))


@pytest.mark.parametrize('label', [-1, 3])
def test_labels_that_are_no_class_are_refused(label):
  """As in TFDS's imagenet2012 test split, whose labels are all -1."""
  source = ListSource(4)
  source.num_classes = 3 if label == 3 else 1000
  read = source.read
  source.read = lambda index: read(index)._replace(
    label=label if index == 2 else 0
  )
  match = rf'label {label} of number 2: must be in \[0, '
  with pytest.raises(ValueError, match=match):
    evaluation(source, 4)
  with pytest.raises(ValueError, match=match):
    resident.load(
      source, range(4), 4, resize=8, image_size=8, damage=DamageLog(0)
    )
  with pytest.raises(ValueError, match=match):
    take(stream_batches(source).batches(0), 1)


def test_evaluation_skips_damaged_images_and_names_them():
  damage = DamageLog(2)
  batches = evaluation(ListSource(6, damaged=(1, 4)), 4, damage)
  mask = np.concatenate([batch['mask'] for batch in batches])
  np.testing.assert_array_equal(mask.nonzero()[0], [0, 2, 3, 5])
  assert damage.keys == ['number 1', 'number 4']
  assert 'number 1' in damage.report()
  assert not damage.report()  # Once is enough.


def test_too_many_damaged_images():
  with pytest.raises(ValueError, match=r'max_damaged=1: number [14] .*number'):
    evaluation(ListSource(6, damaged=(1, 4)), 4, DamageLog(1))


def test_epoch_order():
  first = order.epoch_order(0, 0, 100)
  np.testing.assert_array_equal(np.sort(first), np.arange(100))
  np.testing.assert_array_equal(first, order.epoch_order(0, 0, 100))
  for other in (order.epoch_order(0, 1, 100), order.epoch_order(1, 0, 100)):
    assert (first != other).any()


def test_a_batch_larger_than_the_split():
  with pytest.raises(ValueError, match='batch_size 8: there are only 7'):
    order.steps_per_epoch(7, 8)


def stream_batches(
  source, damage=None, num_threads=2, scale=(0.3, 1.0), layouts=None, **options
):
  return stream.StreamBatches(
    source,
    4,
    mesh=sharding.make_mesh(1),
    seed=0,
    crops=stream.Crops({0: 6, 2: 8}, scale, layouts=layouts),
    damage=damage or DamageLog(0),
    num_threads=num_threads,
    **options,
  )


def take(iterator, count):
  result = jax.device_get(list(itertools.islice(iterator, count)))
  iterator.close()
  return result


def test_stream_visits_the_epochs_order():
  batches = take(stream_batches(ListSource(9)).batches(0), 4)
  labels = [batch['label'] for batch in batches]
  for epoch in range(2):
    expected = order.epoch_order(0, epoch, 9)[:8]
    np.testing.assert_array_equal(
      np.concatenate(labels[2 * epoch : 2 * epoch + 2]), expected
    )


def test_stream_without_random_crops():
  batch = take(stream_batches(ListSource(9), scale=None).batches(0), 1)[0]
  for image, label in zip(batch['image'], batch['label'], strict=True):
    data = images.encoded(int(label))
    expected = decode.view(data, resize=6, size=6)
    np.testing.assert_array_equal(image, expected)


def test_stream_changes_the_size_with_the_epoch():
  # Two steps an epoch, and another size from the third on.
  batches = take(stream_batches(ListSource(9)).batches(0), 6)
  sizes = [batch['image'].shape[1:3] for batch in batches]
  assert sizes == [(6, 6)] * 4 + [(8, 8)] * 2


@pytest.mark.parametrize('start', [1, 2, 3])
def test_stream_resumes_to_the_same_bytes(start):
  source = ListSource(9)
  whole = take(stream_batches(source).batches(0), 5)
  rest = take(stream_batches(source, num_threads=1).batches(start), 5 - start)
  chex.assert_trees_all_equal(rest, whole[start:])


class PhotoSource(ListSource):
  """Gridded and plain JPEGs and a PNG, some larger than the padded side."""

  def __init__(self):
    self._data = [
      make((width, height))
      for width, height in ((70, 40), (31, 90), (24, 24))
      for make in (gridded, jpeg)
    ]
    self._data += [images.encoded(3), turned(6)]


def turned(value):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = value
  return jpeg((40, 30), exif=exif)


def test_boxes_that_the_step_resizes_are_as_the_hosts():
  source = PhotoSource()
  read = source.read
  source.read = lambda index: read(index)._replace(as_seen=True)
  given = boxes.random_layouts(source, (6, 8), (0.3, 1.0), 4)
  # Without room, too.
  tight = {
    size: layout._replace(length=3 * (4 * size**2 + layout.side + 40))
    for size, layout in given.items()
  }
  host = take(stream_batches(source).batches(0), 6)
  fetched = []
  for layouts in (given, tight):
    device = stream_batches(source, layouts=layouts)
    for first, second in zip(host, take(device.batches(0), 6), strict=True):
      image, label = device.take(second, 0)
      fetched.append((image, second['page'].nbytes, second['stride']))
      np.testing.assert_array_equal(label, first['label'])
      assert abs(np.asarray(image) - first['image']).max() <= 1.001
  # Most are left for the step where there is room.
  assert np.mean([stride > 24 for _, _, stride in fetched[:6]]) > 0.6
  assert np.mean([stride > 24 for _, _, stride in fetched[6:]]) < 0.4


def test_boxes_resume_to_the_same_pixels():
  """Also with damaged images, whose place is taken by others."""
  source, damage = PhotoSource(), DamageLog(1)
  source._data[2] = source._data[2][:900] + b'\xff\xd9'
  layouts = boxes.random_layouts(source, (6, 8), (0.3, 1.0), 4)
  whole, rest = (
    stream_batches(source, damage, threads, layouts=layouts)
    for threads in (2, 1)
  )
  for first, second in zip(
    take(whole.batches(0), 6)[3:], take(rest.batches(3), 3), strict=True
  ):
    for name in ('start', 'stride', 'box', 'center', 'label'):
      np.testing.assert_array_equal(first[name], second[name])
    chex.assert_trees_all_equal(whole.take(first, 0), rest.take(second, 0))
  assert damage.keys == ['number 2']


def test_memory_is_used_again_when_nobody_has_it():
  memory = host_arrays.Arrays()
  first, second = (memory.empty((5, 7)) for _ in range(2))
  places = {x.ctypes.data for x in (first, second)}
  assert len(places) == 2 and not any(place % 64 for place in places)
  part = first[2:]
  del first
  held = jax.block_until_ready(jax.device_put(second))
  # What JAX has copied may be used at once.
  kept = {held.unsafe_buffer_pointer(), part.ctypes.data - 14} & places
  del second
  assert kept and memory.empty((5, 7)).ctypes.data not in kept
  del part, held
  third, fourth = (memory.empty((5, 7)) for _ in range(2))
  assert len(places & {x.ctypes.data for x in (third, fourth)}) >= 1


@pytest.mark.parametrize(
  'sizes, num_devices', [((16, 12), 1), ((16, 12), 8), ((100, 96), 1)]
)
def test_views_that_the_devices_resize_are_as_the_hosts(sizes, num_devices):
  source = PhotoSource()
  source._data[3] = source._data[3][:50]
  read = source.read
  source.read = lambda index: read(index)._replace(as_seen=True)
  found = []
  for kind in (EvaluationBatches, ResizedOnDevices):
    damage = DamageLog(1)
    found.append(evaluation(source, 16, damage, num_devices, kind, sizes))
    assert damage.keys == ['number 3']
  (host,), (device,) = found
  for name in ('mask', 'label'):
    np.testing.assert_array_equal(host[name], device[name])
  assert host['image'].shape == device['image'].shape
  difference = abs(host['image'].astype(int) - device['image'])
  assert difference[host['mask']].max() <= (1 if sizes[0] < 90 else 2)


def test_the_crops_of_a_position_depend_on_nothing_else():
  many = draws.draw(7, 2, 10, 30)
  few = draws.draw(7, 2, 25, 3)
  numbers = lambda drawn: [drawn.uniform(0, 1) for _ in range(40)]
  expected = [numbers(drawn) for drawn in many]
  assert [numbers(drawn) for drawn in few] == expected[15:18]
  assert len({x for row in expected for x in row}) == 1200
  assert draws.draw(7, 3, 10, 1)[0].uniform(0, 1) != expected[0][0]
  mean = np.mean(expected)
  assert 0.45 < mean < 0.55
  drawn = draws.Drawn([0.0, 0.5, 0.999])
  assert [drawn.integers(3) for _ in range(3)] == [0, 1, 2]


def test_a_run_begun_before_has_the_crops_of_numpys_generator():
  source = ListSource(9)
  batch = take(stream_batches(source, alone=True).batches(2), 1)[0]
  for row, label in enumerate(batch['label']):
    expected = decode.random_resized_crop(
      images.encoded(int(label)),
      np.random.default_rng((0, 1, row, 0)),
      size=6,
      scale=(0.3, 1.0),
    )
    np.testing.assert_array_equal(batch['image'][row], expected)


def test_sizes_are_those_of_a_sample(monkeypatch):
  source = PhotoSource()
  assert max(map(max, boxes.sample_sizes(source))) == 90
  monkeypatch.setattr(boxes, '_SAMPLE', 2)
  assert boxes.sample_sizes(source) == [(70, 40), (24, 24)]  # 0 and 4.
  source._data[0] = b'damaged'
  assert boxes.sample_sizes(source) == [(24, 24)]
  assert [boxes.padded_side(176, side) for side in (10, 400, 9000)] == [
    *(192, 416, 480),
  ]


def test_stream_replaces_damaged_images():
  damage = DamageLog(3)
  source = ListSource(9, damaged=(2,))
  batches = take(stream_batches(source, damage).batches(0), 6)
  labels = np.concatenate([batch['label'] for batch in batches])
  assert 2 not in labels
  assert damage.keys == ['number 2']
  with pytest.raises(ValueError, match='damaged'):
    take(stream_batches(ListSource(4, range(4)), DamageLog(9)).batches(0), 1)
