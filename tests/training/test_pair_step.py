"""The step of towers: eight devices equal one, and it learns the pairs."""

from flax import nnx
import jax
import numpy as np
import optax

from mrl_jax.models import clip_text
from mrl_jax.models import text
from mrl_jax.models import towers
from mrl_jax.models import vit
from mrl_jax.training import pair_step
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib

IMAGE = vit.Variant(8, depth=1, num_heads=2, patch=4, hidden=8)
TEXT = clip_text.Variant(
  vocabulary_size=20, width=8, depth=1, num_heads=2, hidden=8, max_tokens=4
)


def make():
  rngs = nnx.Rngs(0)
  return towers.Towers(
    vit.ViT(IMAGE, image_size=8, rngs=rngs),
    text.create(text.Settings(TEXT, 'last', normalise=False), rngs=rngs),
    (2, 8),
    kind='sigmoid',
    rngs=rngs,
  )


def batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.normal(size=(16, 8, 8, 3)).astype(np.float32),
    'token': rng.integers(0, 20, (16, 4), np.int32),
    'length': rng.integers(1, 5, 16, np.int32),
  }


def test_eight_devices_equal_one():
  found = []
  for devices in (1, 8):
    mesh = sharding.make_mesh(devices)
    optimizer = optax.sgd(0.1)
    graphdef, state = state_lib.create(
      make(), optimizer, trainable=('text', 'log_scale')
    )
    step = pair_step.make_pair_step(
      graphdef,
      optimizer,
      lambda key, batch, step: (batch['image'], None),
      seed=0,
      mesh=mesh if devices > 1 else None,
      trainable=('text', 'log_scale'),
    )
    before = jax.device_get(state.params)
    state = jax.device_put(state, sharding.replicated(mesh))
    data, losses = sharding.shard_batch(batch(), mesh), []
    for _ in range(2):
      state, values = step(state, data)
      losses.append(values['loss'])
    found.append(jax.device_get((state.params, values)))
  for one, eight in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(eight, one, atol=1e-5, rtol=1e-5)
  assert losses[-1] < losses[0]
  after = found[0][0]
  jax.tree.map(np.testing.assert_array_equal, before['image'], after['image'])
  assert (before['log_scale'] != after['log_scale']).all()
