"""Fingerprints of arrays, and the damage to checkpoints that they notice."""

import json
import shutil

import chex
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from mrl_jax.training import fingerprint
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.saved_step import SavedStep


def number(x):
  return fingerprint.of_arrays(jnp.asarray(x))['']


def noise(*shape):
  bits = np.random.default_rng(0).bytes(4 * int(np.prod(shape)))
  return np.frombuffer(bits, np.int32).reshape(shape)


def test_worked_out():
  """MurmurHash3 ends 0 as 0 and 1 as 0x514E28B7; the keys are 0 and SPACING."""
  spacing = 0x9E3779B9
  assert number(np.array([0, spacing], np.uint32)) == 0
  assert number(np.array([1, spacing], np.uint32)) == 0x514E28B7
  assert number(np.array([0, spacing ^ 1], np.uint32)) == 0x514E28B7
  both = np.array([1, spacing ^ 1], np.uint32)
  assert number(both) == 2 * 0x514E28B7 % 2**32


@pytest.mark.parametrize('block', [1, 5, 64, 2**16])
def test_it_is_the_sum_over_flat_positions(block, monkeypatch):
  monkeypatch.setattr(fingerprint, '_BLOCK', block)
  x = noise(3, 1, 5, 7)
  total = 0
  for position, word in enumerate(x.view(np.uint32).ravel().tolist()):
    bits = word ^ (position * 0x9E3779B9 % 2**32)
    bits = (bits ^ bits >> 16) * 0x85EBCA6B % 2**32
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 % 2**32
    total += bits ^ bits >> 16
  assert number(x) == total % 2**32


@pytest.mark.parametrize('shape', [(), (2, 3)])
@pytest.mark.parametrize(
  'dtype',
  [
    *('float32', 'int32', 'uint32', 'bfloat16', 'float16', 'int8', 'uint8'),
    *('float64', 'int64'),
  ],
)
def test_every_bit_changes_it(dtype, shape):
  with jax.enable_x64(True):
    x = np.arange(np.prod(shape)).reshape(shape).astype(jnp.dtype(dtype))
    numbers = {number(x)}
    data = x.tobytes()
    for bit in range(8 * len(data)):
      flipped = bytearray(data)
      flipped[bit // 8] ^= 1 << bit % 8
      flipped = np.frombuffer(flipped, x.dtype).reshape(shape)
      numbers.add(number(flipped))
  # No two of them agree, either.
  assert len(numbers) == 1 + 8 * len(data)


def test_booleans_and_empty_arrays():
  assert number(np.zeros((0, 3), np.float32)) == 0
  numbers = {
    number(np.array(x)) for x in ([True, False], [False, True], [True, True])
  }
  assert len(numbers) == 3


def test_words_moved_or_cleared_change_it():
  x = noise(64, 64)
  changed = [x.copy() for _ in range(4)]
  changed[0][[3, 5]] = x[[5, 3]]
  changed[1][16:32] = 0
  changed[2] = x.T
  # The sum of the words would not notice: twice 2^31 is 0.
  changed[3][7, :2] ^= np.int32(-(2**31))
  assert len({number(x), *map(number, changed)}) == 5


@pytest.mark.parametrize('data, model', [(1, 1), (8, 1), (4, 2), (1, 8)])
@pytest.mark.parametrize(
  'axes', [(), ('data',), (None, 'data'), ('data', 'model'), ('model',)]
)
def test_however_it_is_split(data, model, axes):
  mesh = sharding.make_mesh(data, model)
  x = noise(16, 24, 3)
  split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
  assert number(split) == number(x)


def saved(path):
  """Checkpoints of the steps 1 and 2, and the state of the first."""
  states = [
    state_lib.State(
      step=jnp.array(step, jnp.int32),
      params={'w': noise(50, 40) + step, 'layers': {0: jnp.zeros(3)}},
      batch_stats={},
      opt_state=(),
    )
    for step in (1, 2)
  ]
  states = jax.device_put(states)
  with Checkpoints(path, keep=2) as checkpoints:
    for state in states:
      checkpoints.save(state, {'seed': 1})
  return states[0]


def flip(folder):
  """Flips a bit in the middle of the largest file."""
  files = (path for path in folder.rglob('*') if path.is_file())
  path = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def test_a_flipped_bit_is_refused_and_the_one_before_is_whole(tmp_path):
  first = saved(tmp_path)
  flip(tmp_path / '2' / 'model')
  line = rf'checkpoint {tmp_path}/2 is damaged \(not as saved: model.params.w\)'
  with Checkpoints(tmp_path) as checkpoints:
    assert SavedStep(tmp_path, 2).read('config') == {'seed': 1}
    shapes = checkpoints.model_shapes(2)
    with pytest.raises(ValueError, match=line):
      checkpoints.restore(first, 2)
    with pytest.raises(ValueError, match=line):
      checkpoints.restore_model(shapes, 2)
  shutil.rmtree(tmp_path / '2')
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.latest_step == 1
    chex.assert_trees_all_equal(checkpoints.restore(first, 1), first)


def test_damage_elsewhere_is_refused(tmp_path):
  first = saved(tmp_path)
  shutil.copytree(tmp_path / '1', tmp_path / '3')
  (tmp_path / '1/config/metadata').write_text('{"seed": 3}')
  path = tmp_path / '2/fingerprints/metadata'
  numbers = json.loads(path.read_text())
  numbers['optimizer.step'] ^= 1
  path.write_text(json.dumps(numbers))
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match=r'1 is damaged .*: config\)'):
      SavedStep(tmp_path, 1).read('config')
    with pytest.raises(ValueError, match=r'2 is damaged .*: optimizer\.step'):
      checkpoints.restore(first, 2)
    with pytest.raises(ValueError, match=r'3 is damaged .*: step\)'):
      checkpoints.restore(first, 3)


@pytest.mark.parametrize('text', ['', '{"scor', '{"ssore": 1.0}', '[1.0]'])
def test_a_damaged_score_is_named(tmp_path, text):
  saved(tmp_path)
  (tmp_path / '1/metrics/metrics').write_text(text)
  for keep in (None, 2):
    with pytest.raises(ValueError, match=f'{tmp_path}/1 is damaged'):
      Checkpoints(tmp_path, keep=keep)
