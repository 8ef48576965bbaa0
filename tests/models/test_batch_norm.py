"""BatchNorm by group and before a pool; what a strided 1x1 conv reads."""

import chex
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax.models import batch_norm
from mrl_jax.models import residual
from mrl_jax.models.batch_norm import BatchNorm


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


@pytest.mark.parametrize('side', [7, 8])
def test_a_1x1_convolution_reads_the_pixels_of_its_stride(side):
  conv = residual.Layers(True, jnp.float32, nnx.Rngs(0)).conv(16, 8, 1, 2)
  x = jnp.asarray(normal(2, side, side, 16), jnp.float32)
  expected = residual.blur(x)[:, ::2, ::2] @ conv.conv.kernel[...][0]
  np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-6)
