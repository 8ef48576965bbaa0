"""Fine-tuning: what trains, what is frozen, and what freezing saves."""

import chex
from flax import nnx
from flax import traverse_util
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax.training import inference
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.training import trainable
from mrl_jax.training.checkpoint import Checkpoints

DIMS = (2, 8, 64)
LAST = ('layer3.0.conv2', 'head')
# arXiv 2205.13147, table 26.
SETTINGS = (
  'head',
  'layer4.2.conv3, head',
  'layer4.2.conv2, layer4.2.conv3, head',
  'layer4.2, head',
)
OPTIMIZER = optim.sgd(0.05, momentum=0.9, weight_decay=1e-3, mask='reference')


def augment(key, batch, step):
  del key, step
  return batch['image'], batch['label']


def batch(step, count=8):
  rng = np.random.default_rng(step)
  return {
    'image': rng.normal(size=(count, 8, 8, 3)).astype(np.float32),
    'label': rng.integers(0, 10, count).astype(np.int32),
  }


def create(patterns):
  model = models.Classifier('resnet8', DIMS, 10, rngs=nnx.Rngs(0))
  return state_lib.create(model, OPTIMIZER, trainable=patterns)


def make_step(patterns, **kwargs):
  graphdef, state = create(patterns)
  step = train_step_lib.make_train_step(
    graphdef, OPTIMIZER, augment, seed=0, trainable=patterns, **kwargs
  )
  return step, state


@pytest.fixture(scope='module')
def last_step():
  """The step that trains `LAST`, compiled once."""
  return make_step(LAST)[0]


def flat(tree):
  tree = traverse_util.flatten_dict(jax.device_get(tree))
  return {'.'.join(map(str, path)): x for path, x in tree.items()}


def changed(before, after):
  before, after = flat(before), flat(after)
  return {name for name in before if (before[name] != after[name]).any()}


def test_patterns_match_whole_names_from_the_front():
  path = ('encoder', 'layer4', 2, 'conv3', 'conv', 'kernel')
  for pattern in ('encoder', 'layer4', 'layer4.2', 'encoder.layer4.2.conv3'):
    assert trainable.matches(path, (pattern,))
  for pattern in ('layer', '4.2', 'conv3', 'layer4.2.conv', 'layer4.20', ''):
    assert not trainable.matches(path, (pattern,))
  assert trainable.matches(path, ())
  assert trainable.matches(('head', 'bias'), ('layer4', 'head'))


def test_split_and_merge_are_inverse():
  params = {'encoder': {'a': {0: 1, 10: 2}}, 'head': {'bias': 3}}
  parts = trainable.split(params, ('a.0', 'head'))
  assert parts == (
    {'encoder': {'a': {0: 1}}, 'head': {'bias': 3}},
    {'encoder': {'a': {10: 2}}},
  )
  assert trainable.merge(*parts) == params
  assert trainable.split(params, ()) == (params, {})


@pytest.mark.parametrize('name', SETTINGS)
def test_the_papers_settings_are_patterns_of_a_resnet50(name):
  model = nnx.eval_shape(
    lambda: models.Classifier('resnet50', (8, 2048), 10, rngs=nnx.Rngs(0))
  )
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  # By its name, as from the command line, or by its patterns.
  trained, _ = trainable.split(params, (name,))
  assert trained == trainable.split(params, name.split(', '))[0]
  block = {
    'conv1.conv.kernel', 'conv2.conv.kernel', 'conv3.conv.kernel',
    *(f'bn{i}.{x}' for i in (1, 2, 3) for x in ('scale', 'bias')),
  }  # fmt: skip
  prefix = 'encoder.layer4.2.'
  expected = {
    'head': (),
    'layer4.2.conv3, head': ('conv3.conv.kernel',),
    'layer4.2.conv2, layer4.2.conv3, head': (
      'conv2.conv.kernel',
      'conv3.conv.kernel',
    ),
    'layer4.2, head': block,
  }[name]
  paths = {
    '.'.join(map(str, path)) for path in traverse_util.flatten_dict(trained)
  }
  assert paths == {'head.kernel', 'head.bias', *(prefix + x for x in expected)}


def test_patterns_that_match_nothing_are_named():
  with pytest.raises(ValueError, match=r'trainable layer4\.2, neck: matches'):
    create(('layer4.2', 'head', 'neck'))
  for entry in ('', 'head,', 3):
    with pytest.raises(ValueError, match=f'trainable {entry!r}'):
      create((entry,))


def test_only_what_trains_changes(last_step):
  state = create(LAST)[1]
  before = jax.device_get(state)
  for i in range(2):
    state, values = last_step(state, batch(i))
  expected = {'encoder.layer3.0.conv2.conv.kernel', 'head.kernel', 'head.bias'}
  assert changed(before.params, state.params) == expected
  # Every norm is frozen with its scale: no running statistics move.
  chex.assert_trees_all_equal(
    before.batch_stats, jax.device_get(state.batch_stats)
  )
  assert np.isfinite(values['loss'])


def test_no_optimizer_state_of_what_is_frozen():
  trained, _ = trainable.split(create(LAST)[1].params, LAST)
  shapes = sorted(x.shape for x in jax.tree.leaves(trained))
  state = create(LAST)[1]
  momentum = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert sorted(x.shape for x in momentum) == shapes


def test_norms_of_frozen_parts_are_in_evaluation_mode():
  """And those of trained ones are not: their statistics move."""
  patterns = ('layer3.0', 'head')
  step, state = make_step(patterns)
  before = jax.device_get(state)
  state, _ = step(state, batch(0))
  moved = changed(before.batch_stats, state.batch_stats)
  assert moved == {
    f'encoder.layer3.0.{norm}.{x}'
    for norm in ('bn1', 'bn2', 'downsample.norm')
    for x in ('mean', 'var')
  }


def test_the_loss_is_that_of_the_model_in_evaluation_mode(last_step):
  graphdef, state = create(LAST)
  model = nnx.view(
    nnx.merge(graphdef, state.params, state.batch_stats),
    use_running_average=True,
  )
  loss, _ = model.head.loss(
    model.encoder(jnp.asarray(batch(0)['image'])), batch(0)['label']
  )
  _, values = last_step(state, batch(0))
  np.testing.assert_allclose(values['loss'], loss, rtol=1e-6)


def test_gradients_are_those_of_training_it_all():
  """With every norm frozen, the head's update does not depend on the rest."""
  states = []
  for patterns in (('head',), LAST):
    step, state = make_step(patterns)
    states.append(step(state, batch(0))[0])
  heads = [state.params['head'] for state in states]
  chex.assert_trees_all_close(*heads, rtol=1e-5, atol=1e-7)


def test_nothing_goes_backward_below_what_trains():
  def flops(patterns):
    step, state = make_step(patterns)
    return step.lower(state, batch(0)).compile().cost_analysis()['flops']

  graphdef, state = create(('head',))
  forward = inference.make_embed_step(graphdef, jnp.asarray)
  forward = forward.lower(state.params, state.batch_stats, batch(0))
  forward = forward.compile().cost_analysis()['flops']
  # The heads' own work is small beside the encoder's.
  assert flops(('head',)) < 1.1 * forward
  assert flops(('layer3.0', 'head')) < 1.9 * forward
  assert flops(()) > 2.5 * forward


def test_resuming_gives_the_same_bits(tmp_path, last_step):
  state = create(LAST)[1]
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    state, _ = last_step(state, batch(0))
    checkpoints.save(state, {})
    expected = jax.device_get(last_step(state, batch(1)))
  with Checkpoints(tmp_path) as checkpoints:
    state = checkpoints.restore(create(LAST)[1], 1)
  chex.assert_trees_all_equal(
    jax.device_get(last_step(state, batch(1))), expected
  )


def test_in_parts_and_on_many_devices_it_is_the_same(last_step):
  """Where no norm trains, micro-batches average to the whole batch."""
  expected = jax.device_get(last_step(create(LAST)[1], batch(0))[0])
  mesh = sharding.make_mesh(2, 2)
  graphdef, state = create(LAST)
  layout = sharding.of_state(state, mesh, fsdp=True)
  step = train_step_lib.make_train_step(
    graphdef,
    OPTIMIZER,
    augment,
    seed=0,
    trainable=LAST,
    micro_batches=2,
    sharding=(layout, sharding.replicated(mesh)),
  )
  state = jax.device_put(state, layout)
  state, _ = step(state, sharding.shard_batch(batch(0), mesh))
  chex.assert_trees_all_close(
    jax.device_get(state), expected, rtol=1e-4, atol=1e-6
  )


def test_some_of_the_granularities():
  step, state = make_step(LAST, granularities_per_step=2)
  before = jax.device_get(state.params)
  state, values = step(state, batch(0))
  assert values['loss_G'].shape == (3,)
  assert 'head.kernel' in changed(before, state.params)
