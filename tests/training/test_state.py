"""The train and evaluation steps, and the checkpoints of their state."""

import dataclasses
import resource
import time

import chex
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import losses
from mrl_jax import models
from mrl_jax.training import inference
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.saved_step import SavedStep

DIMS = (2, 8, 64)
OPTIMIZER = optim.sgd(0.05, momentum=0.9, weight_decay=1e-3)


def create(**kwargs):
  model = models.Classifier('resnet8', DIMS, 10, rngs=nnx.Rngs(0), **kwargs)
  return state_lib.create(model, OPTIMIZER)


def augment(key, batch, step):
  del step
  noise = jax.random.normal(key, batch['image'].shape)
  return batch['image'] + 0.1 * noise, batch['label']


def normalize(image_NHWC):
  return image_NHWC.astype(jnp.float32) / 128 - 1


# One compilation for all tests of a single device.
GRAPHDEF, _ = create()
TRAIN_STEP = train_step_lib.make_train_step(
  GRAPHDEF, OPTIMIZER, augment, seed=0, weights_G=(2, 1, 1), label_smoothing=0.1
)


def fresh(mesh=None):
  mesh = mesh or sharding.make_mesh(1)
  return jax.device_put(create()[1], sharding.replicated(mesh))


def batch(step, count=16):
  rng = np.random.default_rng(step)
  return {
    'image': rng.normal(size=(count, 8, 8, 3)).astype(np.float32),
    'label': rng.integers(0, 10, count).astype(np.int32),
  }


def test_golden_step():
  """A change of these numbers is a change of what training does."""
  state, first = TRAIN_STEP(fresh(), batch(0))
  state, second = TRAIN_STEP(state, batch(1))
  assert int(state.step) == 2
  # The sum of the widths' losses by their weights.
  np.testing.assert_allclose(
    first['loss'], np.dot((2, 1, 1), first['loss_G']), rtol=1e-6
  )
  np.testing.assert_allclose(
    [first['loss'], first['grad_norm'], second['loss'], second['grad_norm']],
    [9.93096, 5.79402, 10.25194, 5.85304],
    rtol=1e-3,
  )


def test_a_step_can_train_some_of_the_granularities():
  step = train_step_lib.make_train_step(
    GRAPHDEF, OPTIMIZER, augment, seed=0, granularities_per_step=2
  )
  start = jax.device_get(fresh().params['head'])
  trained = set()
  for i in range(4):
    state = dataclasses.replace(fresh(), step=jnp.int32(i))
    state, values = step(state, batch(i))
    # The loss that is shown is that of all.
    np.testing.assert_allclose(
      values['loss'], values['loss_G'].sum(), rtol=1e-6
    )
    change_GC = np.abs(state.params['head']['bias'] - start['bias'])
    # Weight decay alone moves them all a little.
    trained.add(tuple(change_GC.max(-1) > 1e-3))
  assert trained == {(True, False, True), (False, True, True)}


def test_micro_batches_are_averaged():
  quiet = lambda key, batch, step: (batch['image'], batch['label'])
  steps = [
    train_step_lib.make_train_step(
      GRAPHDEF, OPTIMIZER, quiet, seed=0, micro_batches=count
    )
    for count in (1, 2)
  ]
  state, _ = steps[1](fresh(), batch(1, 8))
  halves = [
    {name: x[i::2] for name, x in batch(1, 8).items()} for i in range(2)
  ]
  expected = jax.tree.map(
    lambda a, b: (a + b) / 2,
    *(steps[0](fresh(), half)[0].params for half in halves),
  )
  chex.assert_trees_all_close(state.params, expected, rtol=1e-4, atol=1e-6)


def test_the_step_is_traced_once():
  traced = chex.assert_max_traces(augment, n=1)
  step = train_step_lib.make_train_step(GRAPHDEF, OPTIMIZER, traced, seed=0)
  state = fresh()
  for i in range(3):
    state, _ = step(state, batch(i))
  chex.clear_trace_counter()


def test_the_state_is_donated():
  state = fresh()
  TRAIN_STEP(state, batch(0))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_randomness_is_a_function_of_seed_and_step():
  """The same batch at two steps, and with two seeds, differs; else not."""

  def loss(seed, step):
    state = fresh()
    state = dataclasses.replace(state, step=jnp.array(step, jnp.int32))
    return float(STEPS[seed](state, batch(0))[1]['loss'])

  other = train_step_lib.make_train_step(GRAPHDEF, OPTIMIZER, augment, seed=1)
  first = train_step_lib.make_train_step(GRAPHDEF, OPTIMIZER, augment, seed=0)
  STEPS = {0: first, 1: other}
  assert loss(0, 0) == loss(0, 0)
  assert len({loss(0, 0), loss(0, 1), loss(1, 0)}) == 3


def test_eight_devices_equal_one():
  results = []
  for data, model, fsdp in ((1, 1, False), (8, 1, False), (4, 2, True)):
    mesh = sharding.make_mesh(data, model)
    state = create()[1]
    layout = sharding.of_state(state, mesh, fsdp=fsdp)
    state = jax.device_put(state, layout)
    step = train_step_lib.make_train_step(
      GRAPHDEF,
      OPTIMIZER,
      augment,
      seed=0,
      sharding=(layout, sharding.replicated(mesh)),
    )
    for i in range(3):
      state, metrics = step(state, sharding.shard_batch(batch(i), mesh))
    chex.assert_trees_all_equal(
      jax.tree.map(lambda x: x.sharding, state), layout
    )
    results.append(jax.device_get((state, metrics)))
  for result in results[1:]:
    chex.assert_trees_all_close(result, results[0], rtol=1e-4, atol=1e-5)


def test_what_is_split_over_devices():
  mesh = sharding.make_mesh(4, 2)
  tree = {
    'head': {'kernel': np.zeros((96, 1000)), 'bias': np.zeros((3, 9))},
    'encoder': {'conv': np.zeros((3, 3, 64, 128)), 'scale': np.zeros(128)},
  }
  parts = lambda fsdp: jax.tree.map(
    lambda x: tuple(x.spec), sharding.of_state(tree, mesh, fsdp=fsdp)
  )
  assert parts(fsdp=False) == {
    'head': {'kernel': (None, 'model'), 'bias': (None, None)},
    'encoder': {'conv': (None,) * 4, 'scale': (None,)},
  }
  assert parts(fsdp=True) == {
    'head': {'kernel': ('data', 'model'), 'bias': (None, None)},
    'encoder': {'conv': (None, None, None, 'data'), 'scale': (None,)},
  }


@pytest.mark.parametrize('at', [1, 2, 3])
def test_resuming_gives_the_same_bits(tmp_path, at):
  state = fresh()
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for i in range(4):
      if i == at:
        checkpoints.save(state, {'seed': 0})
      state, expected_metrics = TRAIN_STEP(state, batch(i))
  expected = jax.device_get(state)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step == at
    assert SavedStep(tmp_path, at).read('config') == {'seed': 0}
    state = checkpoints.restore(fresh(), at)
  for i in range(at, 4):
    state, metrics = TRAIN_STEP(state, batch(i))
  chex.assert_trees_all_equal(jax.device_get(state), expected)
  chex.assert_trees_all_equal(metrics, expected_metrics)


def save_all(path, scores, keep):
  """Saves a small state at steps 1, 2, … with these scores."""
  small = state_lib.State(jnp.array(0), {'w': jnp.arange(3.0)}, {}, ())
  with Checkpoints(path, keep=keep) as checkpoints:
    for step, score in enumerate(scores, start=1):
      state = state_lib.State(jnp.array(step), small.params, {}, ())
      checkpoints.save(state, {'dataset': 'digits'}, score)
  return small


def test_the_last_and_the_best_are_kept(tmp_path):
  save_all(tmp_path, (0.5, 0.9, None, 0.7, 0.6), keep=2)
  names = {path.name for path in tmp_path.iterdir() if path.name.isdecimal()}
  assert names == {'2', '4', '5'}
  with Checkpoints(tmp_path) as checkpoints:
    assert (checkpoints.latest_step, checkpoints.best_step) == (5, 2)


@pytest.mark.parametrize('item', ['model', 'optimizer', 'config'])
def test_a_damaged_checkpoint_is_named(tmp_path, item):
  small = save_all(tmp_path, (0.1, 0.2), keep=2)
  for path in (tmp_path / '2' / item).rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:7])
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match=f'{tmp_path}/2 .*is damaged'):
      if item == 'config':
        SavedStep(tmp_path, 2).read('config')
      else:
        checkpoints.restore(small, 2)
    restored = checkpoints.restore(small, 1)
  chex.assert_trees_all_equal(restored.params, small.params)


def test_a_save_that_fails_says_so_once(tmp_path):
  """As on a full disk; the checkpoint before stays, and later saves succeed."""
  small = save_all(tmp_path, (0.1,), keep=2)
  largest = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, largest[1]))
  try:
    with (
      pytest.raises(OSError, match=f'could not be saved to {tmp_path}; those'),
      Checkpoints(tmp_path, keep=2) as checkpoints,
    ):
      state = dataclasses.replace(small, step=jnp.array(2))
      checkpoints.save(state, {'dataset': 'digits'})
      checkpoints.wait()
    # The first failure ends the wait; Orbax's other threads still try.
    time.sleep(1)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, largest)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step == 1
    restored = checkpoints.restore(small, 1)
  chex.assert_trees_all_equal(restored.params, small.params)
  save_all(tmp_path, (0.1, 0.2), keep=2)


def test_reading_beside_a_save_leaves_it_alone(tmp_path):
  state = fresh()
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(dataclasses.replace(state, step=jnp.array(step)), {})
      with Checkpoints(tmp_path) as reader:
        assert reader.latest_step in (None, 1, 2, 3)
  with Checkpoints(tmp_path) as reader:
    assert reader.latest_step == 3
    restored = reader.restore(state, 3)
  chex.assert_trees_all_equal(restored.params, state.params)


def test_keep_none():
  with pytest.raises(ValueError, match='keep_checkpoints 0'):
    Checkpoints('unused', keep=0)


@pytest.mark.parametrize('head', ['mrl', 'mrl_e'])
def test_evaluation_sums_are_exact(head):
  graphdef, state = create(head=head)
  dims = (2, 5, 64) if head == 'mrl_e' else None
  step = inference.make_eval_step(graphdef, normalize, dims=dims)
  rng = np.random.default_rng(0)
  examples = {
    'image': rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
    'label': rng.integers(0, 10, 6).astype(np.int32),
    'mask': np.ones(6, bool),
  }
  whole = step(state.params, state.batch_stats, examples)
  padded = jax.tree.map(
    lambda x: np.concatenate([x, np.zeros((2, *x.shape[1:]), x.dtype)]),
    examples,
  )
  chex.assert_trees_all_close(
    step(state.params, state.batch_stats, padded), whole, rtol=1e-5
  )
  assert whole['count'] == 6
  chex.assert_shape(whole['loss'], (3,))


def test_flipped_evaluation_averages_the_logits():
  graphdef, state = create()
  step = inference.make_eval_step(graphdef, normalize, flip=True)
  rng = np.random.default_rng(0)
  image_NHWC = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
  label_N = rng.integers(0, 10, 6).astype(np.int32)
  sums = step(
    state.params,
    state.batch_stats,
    {'image': image_NHWC, 'label': label_N, 'mask': np.ones(6, bool)},
  )
  model = nnx.merge(graphdef, state.params, state.batch_stats)
  model = nnx.view(model, use_running_average=True)
  images = image_NHWC, image_NHWC[:, :, ::-1]
  logits_GNC = sum(model(normalize(x)) for x in images) / 2
  expected_GN = losses.cross_entropy(logits_GNC, label_N)
  np.testing.assert_allclose(sums['loss'], expected_GN.sum(-1), rtol=1e-4)


def test_too_many_devices():
  for data, model in ((9, 1), (4, 3), (0, 9)):
    with pytest.raises(ValueError, match=f'data={data} .*are 8 devices'):
      sharding.make_mesh(data, model)
  with pytest.raises(ValueError, match='data -1: must be a whole number'):
    sharding.make_mesh(-1, 1)
  assert sharding.make_mesh(0, 2).shape == {'data': 4, 'model': 2}
  with pytest.raises(ValueError, match=r'batch_size 12.*8 devices'):
    sharding.check_batch_size(12, sharding.make_mesh(8))
  sharding.check_batch_size(16, sharding.make_mesh(8), 2)
  with pytest.raises(ValueError, match=r'batch_size 24.*16 \(8 devices'):
    sharding.check_batch_size(24, sharding.make_mesh(8), 2)
