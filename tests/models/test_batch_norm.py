"""BatchNorm by group and before a pool; what a strided 1x1 conv reads."""

import chex
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax.models import batch_norm
from mrl_jax.models import projection_norm
from mrl_jax.models import residual
from mrl_jax.models.batch_norm import BatchNorm

EPSILON = 1e-5


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(0.5, 1, shape)


def trained(group=0):
  """A norm of 5 channels whose scale and bias are not 1 and 0."""
  norm = BatchNorm(5, rngs=nnx.Rngs(0))
  norm.scale[...] = jnp.arange(1.0, 6)
  norm.bias[...] = jnp.arange(5.0)
  batch_norm.set_group(norm, group)
  return norm


@pytest.mark.parametrize('shape', [(6, 3, 3, 5), (6, 5)])
def test_groups_equal_separate_batches(shape):
  x = jnp.asarray(normal(*shape), jnp.float32)
  norm = trained(group=2)
  y, norms = norm(x), [trained() for _ in range(3)]
  parts = [other(x[2 * i : 2 * i + 2]) for i, other in enumerate(norms)]
  chex.assert_trees_all_close(y, jnp.concatenate(parts), rtol=1e-5, atol=1e-6)
  for name in ('mean', 'var'):
    expected = np.mean([getattr(other, name)[...] for other in norms], 0)
    np.testing.assert_allclose(getattr(norm, name)[...], expected, rtol=1e-5)


def test_a_group_that_does_not_divide_the_batch():
  with pytest.raises(ValueError, match='group 4: must divide the 6 examples'):
    trained(group=4)(jnp.ones((6, 5)))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('mode', ['train', 'groups', 'eval'])
def test_a_pool_before_the_norm_equals_one_behind_it(mode, dtype):
  x = jnp.asarray(normal(4, 8, 8, 5), dtype)
  pool = lambda x: nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

  def result(before, scale_C, bias_C, x):
    norm = trained(group=2 if mode == 'groups' else 0)
    norm.use_running_average = mode == 'eval'
    norm.scale, norm.bias = nnx.Param(scale_C), nnx.Param(bias_C)
    y = nnx.relu(norm.pooled(x, pool) if before else pool(norm(x)))
    return (y.astype(jnp.float32) ** 2).sum(), (
      y,
      norm.mean[...],
      norm.var[...],
    )

  arguments = jnp.array([2, -1, 0.5, -0.5, 0.25]), jnp.arange(5.0) / 4, x
  found, expected = (
    jax.grad(result, (1, 2, 3), has_aux=True)(before, *arguments)
    for before in (True, False)
  )
  chex.assert_trees_all_equal(found[1], expected[1])
  # Rounded to bfloat16, two values may tie, and then the first is taken.
  close = {'rtol': 1e-4, 'atol': 1e-4}
  if dtype == 'float32':
    chex.assert_trees_all_close(found[0], expected[0], **close)
  else:
    for a, b in zip(found[0][:2], expected[0][:2], strict=True):
      np.testing.assert_allclose(a, b, rtol=0.02, atol=0.1)


def plain(x, w, scale, bias):
  """Each group `x[g]` through the product and its norm, by the definition."""
  y = jnp.einsum('gnhwk,kc->gnhwc', x, w)
  mean = y.mean((1, 2, 3), keepdims=True)
  variance = jnp.square(y - mean).mean((1, 2, 3), keepdims=True)
  wide = lambda x_C: x_C.reshape(1, 1, 1, 1, -1)
  return (y - mean) / jnp.sqrt(variance + EPSILON) * wide(scale) + wide(bias)


@pytest.mark.parametrize('groups', [1, 2])
def test_projection_and_its_gradients_in_float64(groups):
  with jax.enable_x64(True):
    arrays = [
      jnp.asarray(normal(*shape, seed=seed))
      for seed, shape in enumerate(
        ((groups, 4, 3, 2, 5), (5, 12), (12,), (12,))
      )
    ]
    g = jnp.asarray(normal(groups, 4, 3, 2, 12, seed=9))
    y, pull = jax.vjp(
      lambda *args: projection_norm.normalized_projection(*args, EPSILON)[0],
      *arrays,
    )
    expected, pull_plain = jax.vjp(plain, *arrays)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
    for grad, right in zip(pull(g), pull_plain(g), strict=True):
      np.testing.assert_allclose(grad, right, rtol=1e-10, atol=1e-10)


def block_gradients(dtype, stores, monkeypatch):
  """Gradients and running statistics of a widening convolution and its norm.

  With `stores` the convolution's output is normalised by a call.
  """
  if stores:
    monkeypatch.setattr(
      BatchNorm,
      'project',
      lambda norm, x, kernel_KC: norm(
        jnp.einsum('nhwk,kc->nhwc', x, kernel_KC.astype(x.dtype))
      ),
    )
  layers = residual.Layers(True, dtype, nnx.Rngs(0))
  model = residual.Downsample(16, 64, 1, layers)
  graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
  params, statistics = map(nnx.to_pure_dict, states)
  x = jnp.asarray(normal(8, 5, 5, 16), dtype)
  weights = jnp.asarray(normal(8, 5, 5, 64, seed=1), jnp.float32)

  def loss(params, x):
    model = nnx.merge(graphdef, params, statistics)
    total = (model(x).astype(jnp.float32) * weights).sum()
    return total, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

  results = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
  return jax.tree.leaves(results)


@pytest.mark.parametrize(
  ('dtype', 'tolerance'), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)]
)
def test_projection_trains_as_a_stored_convolution(
  monkeypatch, dtype, tolerance
):
  found = block_gradients(dtype, False, monkeypatch)
  expected = block_gradients(dtype, True, monkeypatch)
  for x, y in zip(found, expected, strict=True):
    error = jnp.abs((x - y).astype(jnp.float32)).max()
    assert error <= tolerance * jnp.abs(y.astype(jnp.float32)).max()


@pytest.mark.parametrize('side', [7, 8])
def test_a_1x1_convolution_reads_the_pixels_of_its_stride(side):
  conv = residual.Layers(True, jnp.float32, nnx.Rngs(0)).conv(16, 8, 1, 2)
  x = jnp.asarray(normal(2, side, side, 16), jnp.float32)
  expected = residual.blur(x)[:, ::2, ::2] @ conv.conv.kernel[...][0]
  np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-6)
