"""What a training step on eight devices sends, with BatchNorm by group."""

import re

import chex
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax.models import batch_norm
from mrl_jax.models import residual
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib

BATCH = 32


def step_on(devices, group):
  """The number of collectives in a compiled step, and what it returns."""
  mesh = sharding.make_mesh(devices)
  model = models.Classifier('resnet8', (8, 64), 10, rngs=nnx.Rngs(0))
  batch_norm.set_group(model, sharding.batch_norm_group(group, BATCH, mesh))
  optimizer = optim.sgd(0.1, momentum=0.9)
  graphdef, state = state_lib.create(model, optimizer)
  layout = sharding.of_state(state, mesh)
  step = train_step_lib.make_train_step(
    graphdef,
    optimizer,
    lambda key, batch, step: (batch['image'], batch['label']),
    seed=0,
    sharding=(layout, sharding.replicated(mesh)),
  )
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.normal(size=(BATCH, 16, 16, 3)).astype(np.float32),
    'label': rng.integers(0, 10, BATCH).astype(np.int32),
  }
  batch = sharding.shard_batch(batch, mesh)
  state = jax.device_put(state, layout)
  compiled = step.lower(state, batch).compile()
  sent = re.findall(
    r' (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(',
    compiled.as_text(),
  )
  return sent, jax.device_get(compiled(state, batch))


def test_statistics_by_device_need_no_all_reduce():
  """Two remain: gradients and running statistics, and the two norms of them."""
  sent, result = step_on(8, 'device')
  assert sent == ['all-reduce'] * 2
  sent, expected = step_on(1, BATCH // 8)
  assert not sent
  chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-5)


def test_global_statistics_need_two_a_layer():
  """One forward and one backward for each of seven norms in a row.

  The norm on a shortcut shares those of the block's first or last norm.
  """
  sent, _ = step_on(8, 0)
  assert sent == ['all-reduce'] * (2 * 7 + 2)


@pytest.mark.parametrize('group, count', [(0, 2), (4, 1)])
def test_a_convolution_that_is_not_stored(group, count):
  """One all-reduce forward, one backward; by device that of the gradients."""
  layers = residual.Layers(False, np.float32, nnx.Rngs(0))
  block = residual.Downsample(8, 32, 1, layers)
  batch_norm.set_group(block, group)
  graphdef, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)
  params, stats = map(nnx.to_pure_dict, (params, stats))
  rng = np.random.default_rng(0)
  x, weights = (
    rng.normal(size=(BATCH, 4, 4, width)).astype(np.float32)
    for width in (8, 32)
  )

  def loss(params, x, weights):
    y = nnx.merge(graphdef, params, stats)(x)
    # Its gradient needs y, so that the two directions cannot share a message.
    return (jnp.square(y) * weights).sum()

  def result(devices):
    mesh = sharding.make_mesh(devices)
    whole, split = sharding.replicated(mesh), sharding.over_data(mesh)
    function = jax.jit(
      jax.grad(loss, (0, 1)),
      in_shardings=(whole, split, split),
      out_shardings=(whole, split),
    )
    compiled = function.lower(params, x, weights).compile()
    sent = re.findall(r' all-reduce(?:-start)?\(', compiled.as_text())
    return len(sent), jax.device_get(compiled(params, x, weights))

  sent, found = result(8)
  _, expected = result(1)
  assert sent == count
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_groups_beside_the_devices():
  mesh = sharding.make_mesh(4)
  of = lambda *args: sharding.batch_norm_group(*args)
  assert of(0, BATCH, mesh) == 0
  assert of('device', BATCH, mesh) == 8
  assert of('device', BATCH, mesh, 2) == 4
  assert of(2, BATCH, mesh) == 2 and of(16, BATCH, mesh) == 16
  with pytest.raises(ValueError, match='group 6: must divide the 8 examples'):
    of(6, BATCH, mesh)
