"""The input that a config chooses, and its augmented batches."""

import contextlib

import chex
import jax
import pytest

from configs import digits_mrl
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.stages import inputs
from mrl_jax.training import memory
from mrl_jax.training import sharding
from tests.data.test_batches import ListSource


def augmented(num_devices, steps):
  """Batches as `train` takes them: random crops, half of them mirrored."""
  config = digits_mrl.get_config()
  config.update(batch_size=16, input='resident', image_size=6)
  config.update(augmentation='random_resized_crop', flip=True, eval_resize=8)
  mesh = sharding.make_mesh(num_devices)
  source = ListSource(50)
  batches, augment = inputs.train_batches(
    config, source, mesh, DamageLog(0), 'resident'
  )
  augment = jax.jit(augment)
  keys = jax.random.split(jax.random.key(0), steps)
  stream = batches.batches(0)
  return [augment(keys[i], next(stream), i) for i in range(steps)]


def test_augmented_batches_are_the_same_bits_on_eight_devices():
  alone, spread = (jax.device_get(augmented(n, 4)) for n in (1, 8))
  chex.assert_trees_all_equal(alone, spread)
  assert alone[0][0].shape == (16, 6, 6, 3)


@pytest.mark.parametrize(
  'gigabytes, field, begun, expected',
  [
    # 1,000 images of 192 bytes: 24,000 bytes on each of eight devices.
    (5e-5, 'auto', None, 'resident'),
    (4e-5, 'auto', None, 'stream'),
    (4e-5, 'resident', None, 'resident'),
    (4e-5, 'auto', 'resident', 'resident'),
    (5e-5, 'auto', 'stream', 'stream'),
    # Begun before that was recorded: by resident_gigabytes alone.
    (5e-5, 'auto', '', 'stream'),
    # On CPUs.
    (None, 'auto', None, 'stream'),
  ],
)
def test_auto_is_resident_where_the_devices_hold_it_together(
  gigabytes, field, begun, expected, monkeypatch, capsys
):
  config = digits_mrl.get_config()
  config.update(input=field, resident_gigabytes=1e-4)
  if gigabytes:
    monkeypatch.setattr(memory, 'told', lambda mesh: True)
    monkeypatch.setattr(memory, 'each', lambda mesh: 1e9 * gigabytes)
  mesh = sharding.make_mesh(8)
  assert inputs.choose(config, range(1000), mesh, begun) == expected
  out = capsys.readouterr().out
  where = '0.0 MB kept on each of 8 devices'
  shown = where if expected == 'resident' else 'streamed'
  assert out == ('' if field != 'auto' else f'train: 0.2 MB decoded, {shown}\n')


def test_a_split_that_does_not_fit_says_what_it_needs_and_what_there_is(
  monkeypatch,
):
  config = digits_mrl.get_config()
  config.update(input='resident', image_size=192, eval_image_size=192)
  monkeypatch.setattr(memory, 'each', lambda mesh: 16e9)
  imagenet, mesh = range(1281167), sharding.make_mesh(8)
  line = (
    r"input 'resident': the split takes 17\.7 GB on each of 8 devices, which "
    r'have 16\.0 GB: take more devices, '
  )
  with pytest.raises(ValueError, match=line):
    inputs.choose(config, imagenet, mesh)


@pytest.mark.parametrize(
  'field, begun, expected',
  [
    ('auto', None, 'host'),
    ('device', None, 'device'),
    # A run goes on as it was begun.
    ('auto', 'device', 'device'),
    ('auto', 'host', 'host'),
    # Begun before there was a choice.
    ('auto', '', ''),
    ('host', '', ''),
  ],
)
def test_what_resizes_crops(field, begun, expected):
  config = digits_mrl.get_config()
  config.resize_on = field
  assert inputs.choose_crops(config, begun) == expected


def test_a_run_begun_before_cannot_leave_its_crops_to_the_step():
  config = digits_mrl.get_config()
  config.resize_on = 'device'
  with pytest.raises(ValueError, match='begun before there was a choice'):
    inputs.choose_crops(config, '')


def test_the_step_resizes_streamed_crops():
  """The config's `augment` gives the same batches, wherever it resizes."""
  config = digits_mrl.get_config()
  config.update(batch_size=8, image_size=6, eval_resize=8)
  config.augmentation = 'random_resized_crop'
  mesh, source, found = sharding.make_mesh(8), ListSource(20), []
  for crops in ('host', 'device'):
    batches, augment = inputs.train_batches(
      config, source, mesh, DamageLog(0), 'stream', crops
    )
    with contextlib.closing(batches.batches(1)) as stream:
      found.append(jax.jit(augment)(jax.random.key(0), next(stream), 1))
  (first, labels), (second, same) = jax.device_get(found)
  chex.assert_trees_all_equal(labels, same)
  # A level, divided by the deviation.
  assert abs(first - second).max() <= 1.001 / 255 / min(config.std)
