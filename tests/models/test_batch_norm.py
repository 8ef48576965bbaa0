"""BatchNorm by group; what a strided 1x1 convolution reads."""

import chex
from flax import nnx
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


@pytest.mark.parametrize('side', [7, 8])
def test_a_1x1_convolution_reads_the_pixels_of_its_stride(side):
  conv = residual.Layers(True, jnp.float32, nnx.Rngs(0)).conv(16, 8, 1, 2)
  x = jnp.asarray(normal(2, side, side, 16), jnp.float32)
  expected = residual.blur(x)[:, ::2, ::2] @ conv.conv.kernel[...][0]
  np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-6)
