"""Training images split over the devices, and their exchange in the step."""

import functools

import jax
import numpy as np
import pytest

from mrl_jax.data.batches import exchange
from mrl_jax.data.batches import order
from mrl_jax.data.batches import resident
from mrl_jax.data.batches import vectors as vector_batches
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.images import decode
from mrl_jax.data.sources.vectors import Vectors
from mrl_jax.training import sharding
from tests import images
from tests.data.test_batches import ListSource
from tests.processes import run_two

SEED = 3


def load(source, damage=None, size=8):
  return functools.partial(
    resident.load,
    source,
    resize=size,
    image_size=size,
    damage=damage or DamageLog(len(source)),
    num_threads=2,
  )


def taken(batches, start, stop):
  """The images and labels of some steps, as the devices hold them."""
  take = jax.jit(batches.take)
  steps = zip(range(start, stop), batches.batches(start), strict=False)
  return [take(batch, step) for step, batch in steps]


def test_damaged_images_are_marked():
  damage = DamageLog(1)
  found = load(ListSource(5, damaged=(3,)), damage)(range(1, 5), 6)
  np.testing.assert_array_equal(found.label_R, [1, 2, 0, 4, 0, 0])
  np.testing.assert_array_equal(found.good_R, [1, 1, 0, 1, 0, 0])
  expected = decode.view(images.encoded(4), resize=8, size=8)
  np.testing.assert_array_equal(found.image[3], expected)
  assert not found.image[4:].any()
  assert damage.keys == ['number 3']


# Devices without any rows, with one that is damaged, and with padding.
@pytest.mark.parametrize('data, model', [(1, 1), (8, 1), (4, 2), (1, 8)])
@pytest.mark.parametrize('damaged', [(), (1, 17)])
def test_batches_follow_the_order_on_any_mesh(data, model, damaged):
  mesh = sharding.make_mesh(data, model)
  batches = resident.ResidentBatches(
    load(ListSource(20, damaged)), 20, 8, mesh=mesh, seed=SEED
  )
  good = np.setdiff1d(np.arange(20), damaged)
  assert batches.steps_per_epoch == 2
  for step, (image_NHWC, label_N) in enumerate(taken(batches, 1, 5), 1):
    epoch, within = divmod(step, 2)
    visits = order.epoch_order(SEED, epoch, len(good))
    expected = good[visits[8 * within : 8 * within + 8]]
    np.testing.assert_array_equal(label_N, expected)
    for image, index in zip(np.asarray(image_NHWC), expected, strict=True):
      view = decode.view(images.encoded(int(index)), resize=8, size=8)
      np.testing.assert_array_equal(image, view)
    for x in (image_NHWC, label_N):
      assert x.sharding.is_equivalent_to(sharding.over_data(mesh), x.ndim)


def test_a_device_holds_its_share():
  batches = resident.ResidentBatches(
    load(ListSource(61)), 61, 8, mesh=sharding.make_mesh(8), seed=SEED
  )
  rows = next(batches.batches(0))['images']
  assert [x.data.nbytes for x in rows.addressable_shards] == [8 * 8 * 8 * 3] * 8


@pytest.mark.parametrize('capacity', [1, 2, 3])
def test_rows_beyond_the_capacity_take_further_rounds(capacity):
  """Also of numbers that arithmetic would change: NaN, -0.0, subnormal."""
  mesh = sharding.make_mesh(4)
  rng = np.random.default_rng(0)
  row_MD = rng.integers(0, 2**32, (24, 5), np.uint32).view(np.float32)
  row_MD[:3, 0] = np.nan, -0.0, 1e-42
  rows_B = np.array([0, 1, 2, 3, 4, 0, 23, 22, 5, 6, 0, 1], np.int32)
  assert exchange.capacity(rows_B[None], mesh, 6) == 3
  found = jax.jit(exchange.take, static_argnums=(2, 3))(
    jax.device_put(row_MD, sharding.over_data(mesh)), rows_B, mesh, capacity
  )
  np.testing.assert_array_equal(
    np.asarray(found).view(np.uint32), row_MD[rows_B].view(np.uint32)
  )


def test_the_step_has_no_part_of_the_host():
  batches = resident.ResidentBatches(
    load(ListSource(20)), 20, 8, mesh=sharding.make_mesh(8), seed=SEED
  )
  stream = batches.batches(0)
  step = sharding.replicate(np.int32(0), sharding.make_mesh(8))
  compiled = jax.jit(batches.take).lower(next(stream), step).compile()
  text = compiled.as_text()
  assert 'all-to-all' in text
  for name in ('all-gather', 'all-reduce', 'callback', 'infeed', 'outfeed'):
    assert name not in text, name
  with jax.transfer_guard('disallow_explicit'):
    batch = next(stream)
    jax.block_until_ready(compiled(batch, step))


def test_vectors_are_split_as_well(tmp_path):
  rng = np.random.default_rng(0)
  row_ND = rng.normal(size=(21, 3)).astype(np.float32)
  label_N = rng.integers(-1, 4, 21)  # -1: an example that does not count.
  source = Vectors(row_ND, label_N, num_classes=4, path=tmp_path)
  batches = resident.ResidentBatches(
    functools.partial(vector_batches.load, source),
    *(21, 8),
    mesh=sharding.make_mesh(8),
    seed=SEED,
  )
  for step, (found_ND, labels) in enumerate(taken(batches, 0, 3)):
    epoch, within = divmod(step, 2)
    visits = order.epoch_order(SEED, epoch, 21)[8 * within : 8 * within + 8]
    np.testing.assert_array_equal(found_ND, row_ND[visits])
    np.testing.assert_array_equal(labels, label_N[visits])


@pytest.mark.parametrize(
  'count, batch_size, damaged, line',
  [
    (20, 12, (), r'batch_size 12: must be a multiple of 8 \(8 devices\)'),
    (7, 8, (), 'batch_size 8: there are only 7 examples'),
    (8, 8, (2,), 'batch_size 8: there are only 7 examples'),
  ],
)
def test_batches_that_cannot_be(count, batch_size, damaged, line):
  mesh = sharding.make_mesh(8)
  with pytest.raises(ValueError, match=line):
    resident.ResidentBatches(
      load(ListSource(count, damaged)), count, batch_size, mesh=mesh, seed=SEED
    )


PROCESS = """
import sys
import jax
import numpy as np
address, index, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, index)
from tests.data import test_resident as here
mesh = here.sharding.make_mesh(4, 2)
source, damage = here.ListSource(20, (1, 17)), here.DamageLog(2)
reads, read = [], source.read
source.read = lambda index: (reads.append(index), read(index))[1]
batches = here.resident.ResidentBatches(
  here.load(source, damage), 20, 8, mesh=mesh, seed=here.SEED
)
damage.share()
assert damage.keys == ['number 1', 'number 17']
assert sorted(reads) == list(range(10 * index, 10 * index + 10)), reads
for step, pair in enumerate(here.taken(batches, 1, 3), 1):
  image_NHWC, label_N = map(here.sharding.to_host, pair)
  np.savez(f'{folder}/{index}-{step}.npz', image=image_NHWC, label=label_N)
"""


def test_each_of_two_processes_loads_its_own_rows(tmp_path):
  run_two(PROCESS, tmp_path)
  batches = resident.ResidentBatches(
    load(ListSource(20, (1, 17))), 20, 8, mesh=sharding.make_mesh(1), seed=SEED
  )
  for step, (image_NHWC, label_N) in enumerate(taken(batches, 1, 3), 1):
    for index in range(2):
      with np.load(tmp_path / f'{index}-{step}.npz') as found:
        np.testing.assert_array_equal(found['image'], image_NHWC)
        np.testing.assert_array_equal(found['label'], label_N)
