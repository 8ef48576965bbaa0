"""Slimmable networks: each width's loss is that of a network of its own."""

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import losses
from mrl_jax import models
from mrl_jax.models import resnet
from mrl_jax.models import slimmable
from mrl_jax.training import inference

DIMS = (16, 64)
VARIANT = resnet.VARIANTS['resnet8']


def make(**kwargs):
  return slimmable.SlimmableClassifier(
    'resnet8', DIMS, 5, **{'head': 'mrl_e', **kwargs}, rngs=nnx.Rngs(0)
  )


@pytest.fixture(scope='module')
def batch():
  image_NHWC = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
  return image_NHWC, jnp.array([0, 1, 2, 3, 4, 0])


@pytest.fixture(scope='module')
def gradients(batch):
  """Of the loss at width 16 alone."""
  graphdef, *parts = nnx.split(make(), nnx.Param, nnx.BatchStat)
  params, stats = map(nnx.to_pure_dict, parts)

  @jax.jit
  @jax.grad
  def of_loss(params, image_NHWC, label_N):
    model = nnx.merge(graphdef, params, stats)
    return model.loss(image_NHWC, label_N, weights_G=jnp.array([1.0, 0]))[0]

  return of_loss(params, *batch)


def test_the_narrower_networks():
  assert slimmable.narrowed(VARIANT, 16).widths == (4, 8, 16)
  assert slimmable.narrowed(resnet.VARIANTS['resnet50'], 512).widths == (
    16, 32, 64, 128
  )  # fmt: skip
  with pytest.raises(
    ValueError, match=r'nesting_dims 6: .* 6/64 must be whole'
  ):
    slimmable.narrowed(VARIANT, 6)


def test_each_width_is_a_network_of_its_own(batch):
  model = make()
  loss, loss_G = model.loss(*batch)
  alone = resnet.ResNet(slimmable.narrowed(VARIANT, 16), rngs=nnx.Rngs(7))
  for path, parameter in jax.tree_util.tree_leaves_with_path(
    nnx.to_pure_dict(nnx.state(alone, nnx.Param))
  ):
    names = [key.key for key in path]
    if names[-1] != 'kernel':
      continue
    there, here = model.encoder, alone
    for name in names[:-1]:
      step = lambda x, n=name: x[n] if isinstance(n, int) else getattr(x, n)
      there, here = step(there), step(here)
    h, w, i, o = parameter.shape
    here.kernel = nnx.Param(there.kernel[...][:h, :w, :i, :o])
  image_NHWC, label_N = batch
  expected_G = [
    losses.cross_entropy(
      (
        x_NM @ model.head.kernel[...][: x_NM.shape[1]]
        + model.head.bias[...][None]
      )[None],
      label_N,
    ).mean()
    for x_NM in (alone(image_NHWC), model.encoder(image_NHWC))
  ]
  np.testing.assert_allclose(loss_G, expected_G, rtol=1e-5)
  np.testing.assert_allclose(loss, sum(expected_G), rtol=1e-5)


def test_a_narrow_network_trains_the_leading_channels(gradients):
  grads = gradients
  kernel = np.asarray(grads['encoder']['layer3'][0]['conv2']['conv']['kernel'])
  assert kernel[:, :, :16, :16].any()
  assert not kernel[:, :, 16:].any() and not kernel[..., 16:].any()
  assert grads['narrow'][0]['bn1']['scale'].any()
  assert not np.asarray(grads['encoder']['bn1']['scale']).any()
  head = np.asarray(grads['head']['kernel'])
  assert head[:16].any() and not head[16:].any()


def test_each_width_has_statistics_of_its_own(batch):
  model = make()
  count = lambda: len(jax.tree.leaves(nnx.state(model, nnx.Param)))
  before = count()
  model.loss(*batch)
  # The kernels lent to the narrower network are not its own.
  assert count() == before
  means = [
    np.asarray(network.layer3[0].bn2.mean[...])
    for network in (*model.narrow, model.encoder)
  ]
  assert [mean.shape for mean in means] == [(16,), (64,)]
  assert all(mean.any() for mean in means)
  assert not np.allclose(means[0], means[1][:16])


def test_what_is_evaluated_is_the_full_network(batch):
  model = make()
  plain = models.Classifier('resnet8', DIMS, 5, head='mrl_e', rngs=nnx.Rngs(0))
  graphdef, *state = nnx.split(model, nnx.Param, nnx.BatchStat)
  evaluated = inference.evaluation_model(graphdef, *state)
  np.testing.assert_array_equal(
    evaluated(batch[0]), nnx.view(plain, use_running_average=True)(batch[0])
  )


@pytest.mark.parametrize(
  'arguments, match',
  [
    ((VARIANT, (16, 64), 'mrl'), "head 'mrl': must be mrl_e with slimmable"),
    ((VARIANT, (8, 32), 'mrl_e'), 'the last must be 64 with slimmable'),
    ((VARIANT, (6, 64), 'mrl_e'), '6/64 must be whole numbers'),
    ((models.ENCODERS['vit_s16'], (384,), 'mrl_e'), 'must be a ResNet'),
  ],
)
def test_what_is_not_slimmable(arguments, match):
  with pytest.raises(ValueError, match=match):
    slimmable.validate(*arguments)
