import math

import chex
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.models import residual
from mrl_jax.models.batch_norm import BatchNorm


def abstract(name, dims, head, num_classes=1000):
  return nnx.eval_shape(
    lambda: models.Classifier(
      name, dims, num_classes, head=head, rngs=nnx.Rngs(0)
    )
  )


def num_parameters(model):
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize(
  'name, dims, head, expected',
  [
    # torchvision's counts.
    ('resnet18', (512,), 'fixed', 11_689_512),
    ('resnet34', (512,), 'fixed', 21_797_672),
    ('resnet50', (2048,), 'fixed', 25_557_032),
    ('resnet101', (2048,), 'fixed', 44_549_160),
    ('resnet152', (2048,), 'fixed', 60_192_808),
    # timm's counts.
    ('convnext_tiny', (768,), 'fixed', 28_589_128),
    ('convnext_small', (768,), 'fixed', 50_223_688),
    ('convnext_base', (1024,), 'fixed', 88_591_464),
    ('vit_s16', (384,), 'fixed', 22_050_664),
    ('vit_b16', (768,), 'fixed', 86_567_656),
    ('resnet50', nesting.doubling(8, 2048), 'mrl', 25_557_032 + 2_048_000),
    ('resnet50', nesting.doubling(8, 2048), 'mrl_e', 25_557_032),
  ],
)
def test_parameter_counts(name, dims, head, expected):
  assert num_parameters(abstract(name, dims, head)) == expected


# The others differ from these in numbers only, or are in test_variants.py.
@pytest.mark.parametrize(
  'name',
  [
    'resnet8', 'resnet20', 'resnet18', 'resnet34', 'resnet50', 'convnext_tiny',
    'vit_s16', 'vit_b16',
  ],
)  # fmt: skip
def test_num_features_is_the_embeddings_width(name):
  size = 16 if name in ('resnet8', 'resnet20') else 64
  encoder = nnx.eval_shape(
    lambda: models.create(name, image_size=size, rngs=nnx.Rngs(0))
  )
  graphdef, state = nnx.split(encoder)
  shape = jax.eval_shape(
    lambda state, image: nnx.merge(graphdef, state)(image),
    state,
    jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),
  )
  assert encoder.num_features == models.num_features(name)
  chex.assert_shape(shape, (2, models.num_features(name)))
  assert shape.dtype == jnp.float32


def test_initialisation_is_the_same_jitted_and_not():
  make = lambda key: nnx.split(models.create('resnet8', rngs=nnx.Rngs(key)))[1]
  key = jax.random.key(0)
  chex.assert_trees_all_equal(make(key), jax.jit(make)(key))


def test_initialisation_is_torchs():
  encoder = models.create('resnet8', rngs=nnx.Rngs(0))
  kernel = encoder.layer3[0].conv2.conv.kernel[...]  # 3x3, 64 to 64
  np.testing.assert_allclose(kernel.std(), math.sqrt(2 / (9 * 64)), rtol=0.02)
  np.testing.assert_allclose(kernel.mean(), 0, atol=1e-3)


def test_unknown_encoder():
  with pytest.raises(ValueError, match='resnet51'):
    models.create('resnet51', rngs=nnx.Rngs(0))


def test_dims_beyond_the_encoder():
  with pytest.raises(ValueError, match='128 is beyond the embedding width 64'):
    models.Classifier('resnet8', (8, 128), 10, rngs=nnx.Rngs(0))


def test_bfloat16_keeps_float32_state_and_embedding():
  model = models.create('resnet8', dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  embedding_ND = model(jnp.ones((2, 8, 8, 3)))
  assert embedding_ND.dtype == jnp.float32
  for leaf in jax.tree.leaves(nnx.state(model)):
    assert leaf.dtype == jnp.float32


def test_bfloat16_evaluation_is_close_to_float32():
  """Compiled as a whole, where XLA may fuse what it likes."""
  embeddings = []
  for dtype in (jnp.float32, jnp.bfloat16):
    model = models.create('resnet8', dtype=dtype, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    image_NHWC = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    run = jax.jit(lambda s, x, g=graphdef: nnx.merge(g, s)(x))
    embeddings.append(run(state, image_NHWC))
  scale = np.abs(embeddings[0]).max()
  np.testing.assert_allclose(*embeddings, atol=0.05 * scale)


def test_batch_norm_by_hand():
  norm = BatchNorm(1, rngs=nnx.Rngs(0))
  x = jnp.array([1.0, 2.0, 6.0]).reshape(3, 1, 1, 1)
  y = norm(x).ravel()
  np.testing.assert_allclose(
    y, (x.ravel() - 3) / math.sqrt(14 / 3 + 1e-5), rtol=1e-5
  )
  np.testing.assert_allclose(norm.mean[...], [0.1 * 3], rtol=1e-6)
  # The running variance is the unbiased one: 14 / 2, not 14 / 3.
  np.testing.assert_allclose(norm.var[...], [0.9 + 0.1 * 7], rtol=1e-6)
  evaluated = nnx.view(norm, use_running_average=True)(x).ravel()
  np.testing.assert_allclose(
    evaluated, (x.ravel() - 0.3) / math.sqrt(1.6 + 1e-5), rtol=1e-5
  )
  np.testing.assert_allclose(norm.mean[...], [0.1 * 3], rtol=1e-6)


def test_blur_by_hand():
  # An impulse becomes the binomial filter, on each channel alone.
  x = jnp.zeros((1, 5, 5, 2)).at[0, 2, 2, 1].set(16)
  y = residual.blur(x)
  np.testing.assert_allclose(
    y[0, 1:4, 1:4, 1], [[1, 2, 1], [2, 4, 2], [1, 2, 1]], rtol=1e-6
  )
  assert not y[..., 0].any()


def test_blurpool_stands_before_strided_convolutions_of_16_channels():
  encoder = nnx.eval_shape(
    lambda: models.create('resnet50', blurpool=True, rngs=nnx.Rngs(0))
  )
  blurred = {
    '.'.join(map(str, path))
    for path, node in nnx.iter_graph(encoder)
    if isinstance(node, residual.Conv) and node.blur_stride
  }
  assert blurred == {
    f'layer{stage}.0.{name}'
    for stage in (2, 3, 4)
    for name in ('conv2', 'downsample.conv')
  }


@pytest.mark.parametrize(
  'size, stride', [((1, 1), 1), ((2, 3), 1), ((4, 3), 2), ((3, 3), 1)]
)
def test_a_map_smaller_than_the_kernel_is_convolved_all_the_same(size, stride):
  """The output and both gradients, against the library's convolution."""
  layers = residual.Layers(False, jnp.float32, nnx.Rngs(0))
  layer = layers.conv(5, 7, 3, stride)
  graphdef, state = nnx.split(layer)
  x_NHWC = jax.random.normal(jax.random.key(1), (2, *size, 5))

  def squares(call):
    def total(state, x_NHWC):
      return (call(nnx.merge(graphdef, state), x_NHWC) ** 2).sum()

    return jax.value_and_grad(total, (0, 1))(state, x_NHWC)

  ours = squares(lambda layer, x_NHWC: layer(x_NHWC))
  chex.assert_trees_all_close(
    ours,
    squares(lambda layer, x_NHWC: layer.conv(x_NHWC)),
    rtol=1e-4,
    atol=1e-5,
  )
  text = jax.jit(lambda x_NHWC: layer(x_NHWC)).lower(x_NHWC).as_text()
  assert ('stablehlo.convolution' in text) == (size == (3, 3))
