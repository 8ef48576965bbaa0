"""ConvNeXt and vision transformers of a few channels, and what all share."""

import chex
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax import stages
from mrl_jax.models import convnext
from mrl_jax.models import encoder as encoder_lib
from mrl_jax.models import resnet
from mrl_jax.models import vit
from mrl_jax.stages import check
from mrl_jax.training import optim
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.workdir import Workdir

TINY = {
  'resnet': resnet.Variant((1, 1), (4, 8), False),
  'convnext': convnext.Variant((1, 2), (4, 8)),
  'vit': vit.Variant(8, depth=2, num_heads=2, patch=4),
}


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch):
  for name, variant in TINY.items():
    monkeypatch.setitem(models.ENCODERS, name, variant)


def create(name, **kwargs):
  return models.create(name, image_size=16, rngs=nnx.Rngs(0), **kwargs)


def images(count=4):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=(count, 16, 16, 3)).astype(np.float32))


def evaluated(encoder):
  return nnx.view(encoder, use_running_average=True, raise_if_not_found=False)


@pytest.mark.parametrize(
  'name, shapes',
  [
    ('resnet', {'stem': (4, 4, 4), 'layer1': (4, 4, 4), 'layer2': (2, 2, 8)}),
    ('convnext', {'stem': (4, 4, 4), 'stage1': (4, 4, 4), 'stage2': (2, 2, 8)}),
    ('vit', dict.fromkeys(('embed', 'block1', 'block2'), (17, 8))),
  ],
)
def test_features_and_the_rest_of_the_way(name, shapes):
  encoder = evaluated(create(name))
  found = encoder.features(images())
  assert {name: x.shape[1:] for name, x in found.items()} == shapes
  embedding_ND = encoder(images())
  last = encoder.stage_names[-1]
  chex.assert_trees_all_equal(encoder.from_features(found[last]), embedding_ND)
  for stage, x in found.items():
    chex.assert_trees_all_equal(encoder.from_features(x, stage), embedding_ND)
  with pytest.raises(ValueError, match="stage 'neck': must be one of"):
    encoder.from_features(found[last], 'neck')


@pytest.mark.parametrize('name', TINY)
def test_remat_changes_no_number(name):
  def run(remat):
    options = {} if name == 'resnet' else {'drop_path': 0.5}
    graphdef, *states = nnx.split(
      create(name, remat=remat, **options), nnx.Param, nnx.BatchStat
    )
    params, batch_stats = map(nnx.to_pure_dict, states)

    def loss(params):
      encoder = nnx.merge(graphdef, params, batch_stats)
      embedding_ND = encoder(images(), key=jax.random.key(1))
      norms = nnx.to_pure_dict(nnx.state(encoder, nnx.BatchStat))
      return jnp.dot(embedding_ND**2, jnp.arange(8.0)).sum(), norms

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    text = step.lower(params).as_text()
    return step(params), text.count('optimization_barrier')

  plain, barriers = run(False)
  again, more_barriers = run(True)
  assert more_barriers > barriers  # It does compute again.
  chex.assert_trees_all_close(plain, again, rtol=1e-5, atol=1e-6)


def test_drop_path_by_hand():
  x = jnp.ones((1000, 2))
  y = encoder_lib.drop_path(x, 0.2, jax.random.key(0))
  assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.8)}
  chex.assert_trees_all_equal(y[:, 0], y[:, 1])  # Whole examples.
  np.testing.assert_allclose(y.mean(), 1, atol=0.05)
  assert encoder_lib.drop_path(x, 0.2, None) is x
  np.testing.assert_allclose(encoder_lib.drop_rates(0.2, 3), [0, 0.1, 0.2])
  assert encoder_lib.drop_rates(0.2, 1) == [0]


@pytest.mark.parametrize('name', ['convnext', 'vit'])
def test_random_depth_is_of_training_alone(name):
  encoder = create(name, drop_path=0.5)
  for path, x in nnx.to_flat_state(nnx.state(encoder, nnx.Param)):
    if path[-1] == 'layer_scale':
      x[...] = jnp.ones(x.shape)  # At 1e-6 nothing would show.
  run = lambda key: encoder(images(16), key=key)
  still, first, second = (
    run(None),
    *map(run, jax.random.split(jax.random.key(0))),
  )
  chex.assert_trees_all_equal(still, create_like(encoder, name)(images(16)))
  assert np.abs(first - still).max() > 1e-3
  assert np.abs(first - second).max() > 1e-3


def create_like(encoder, name):
  other = create(name)
  nnx.update(other, nnx.state(encoder))
  return other


def test_micro_batches_skip_blocks_each_on_its_own():
  """Parts of the same images are skipped differently, or it would show."""
  model = models.Classifier(
    'vit', (2, 8), 3, image_size=16, drop_path=0.5, rngs=nnx.Rngs(0)
  )
  optimizer = optim.adamw(0.1)
  graphdef, state = state_lib.create(model, optimizer)
  half = {'image': images(4), 'label': jnp.arange(4) % 3}
  twice = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), half)
  augment = lambda key, batch, step: (batch['image'], batch['label'])
  make = lambda n: train_step_lib.make_train_step(
    graphdef, optimizer, augment, seed=0, micro_batches=n
  )
  copy = lambda state: jax.tree.map(jnp.copy, state)
  _, one = make(1)(copy(state), half)
  _, two = make(2)(copy(state), twice)
  assert abs(one['loss'] - two['loss']) > 1e-4


def test_attention_is_softmax_of_scaled_products():
  block = create('vit').blocks[0]
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 8)), jnp.float32)
  q, k, v = np.split(np.asarray(block.qkv(x))[0], 3, axis=-1)
  heads = []
  for columns in (slice(0, 4), slice(4, 8)):
    weights = np.exp(q[:, columns] @ k[:, columns].T / 2)
    weights /= weights.sum(-1, keepdims=True)
    heads.append(weights @ v[:, columns])
  expected = block.proj(jnp.asarray(np.concatenate(heads, -1))[None])
  np.testing.assert_allclose(block._attend(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['convnext', 'vit'])
def test_bfloat16_keeps_float32_parameters_and_embedding(name):
  encoder = create(name, dtype=jnp.bfloat16)
  assert encoder.features(images())[encoder.stage_names[-1]].dtype == (
    jnp.bfloat16
  )
  embedding_ND = encoder(images())
  assert embedding_ND.dtype == jnp.float32
  np.testing.assert_allclose(
    embedding_ND, create(name)(images()), atol=0.1, rtol=0.1
  )
  for leaf in jax.tree.leaves(nnx.state(encoder)):
    assert leaf.dtype == jnp.float32


def test_training_and_evaluation(config, tmp_path):
  """All the way through checkpoints that hold no BatchNorm statistics."""
  config.encoder = 'vit'
  config.image_size = config.eval_image_size = 8
  config.nesting_dims, config.eval_dims = (2, 8), ()
  config.optimizer, config.learning_rate = 'adamw', 3e-3
  config.drop_path, config.remat = 0.1, True
  stages.run(config, tmp_path, ('train', 'evaluate'))
  workdir = Workdir(tmp_path, config.to_dict())
  assert {'train', 'evaluate'} <= workdir.marks().keys()


@pytest.mark.parametrize(
  'name, options, match',
  [
    ('vit', {'blurpool': True}, 'blurpool True: vit has nothing to blur'),
    ('vit', {'drop_path': 1.0}, r'drop_path 1.0: must be in \[0, 1\)'),
    ('vit', {'drop_path': float('nan')}, 'drop_path nan'),
    ('resnet', {'drop_path': 0.1}, 'drop_path 0.1: must be 0 for resnet'),
    ('vit', {'image_size': 18}, 'image_size 18: must be a multiple of 4'),
  ],
)
def test_options_that_an_encoder_does_not_have(name, options, match):
  with pytest.raises(ValueError, match=match):
    models.create(name, **{'image_size': 16, **options}, rngs=nnx.Rngs(0))


def test_images_of_another_size():
  with pytest.raises(ValueError, match=r'\(1, 8, 8, 3\).* for 16 x 16 pixels'):
    create('vit')(jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
  'field', ['eval_image_size', 'late_image_size', 'flip_eval_image_size']
)
def test_a_transformer_has_one_image_size(field, config):
  config.encoder, config.nesting_dims, config.eval_dims = 'vit', (8,), ()
  config.image_size = config.eval_image_size = 8
  check.check(config)
  config[field] = 4
  config.late_epoch, config.input = 1, 'stream'
  with pytest.raises(ValueError, match=rf'{field} 4: must be .*image_size=8'):
    check.check(config)
