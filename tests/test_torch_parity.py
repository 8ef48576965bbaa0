"""The same random weights through PyTorch models that others wrote."""

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models

torch = pytest.importorskip('torch', reason='torch is not installed')
transformers = pytest.importorskip(
  'transformers', reason='transformers is not installed'
)


def hugging_face_resnet(layer_type, depths, hidden_sizes):
  torch.manual_seed(0)
  config = transformers.ResNetConfig(
    layer_type=layer_type, depths=depths, hidden_sizes=hidden_sizes
  )
  model = transformers.ResNetModel(config).eval()
  for name, tensor in model.state_dict().items():
    # Untrained running statistics would hide a mistake in the BatchNorm.
    if name.endswith(('running_mean', 'normalization.bias')):
      tensor.normal_(std=0.1)
    if name.endswith(('running_var', 'normalization.weight')):
      tensor.uniform_(0.5, 1.5)
  return model


def copy_layer(conv, norm, layer):
  kernel = layer.convolution.weight.detach().numpy().transpose(2, 3, 1, 0)
  assert conv.conv.kernel.shape == kernel.shape
  conv.conv.kernel[...] = kernel
  theirs = layer.normalization
  for ours, tensor in (
    (norm.scale, theirs.weight),
    (norm.bias, theirs.bias),
    (norm.mean, theirs.running_mean),
    (norm.var, theirs.running_var),
  ):
    ours[...] = tensor.detach().numpy()


def copy_weights(encoder, model):
  copy_layer(encoder.conv1, encoder.bn1, model.embedder.embedder)
  for index, stage in enumerate(model.encoder.stages, start=1):
    blocks = getattr(encoder, f'layer{index}')
    for block, layer in zip(blocks, stage.layers, strict=True):
      for i, inner in enumerate(layer.layer, start=1):
        norm = getattr(block, f'bn{i}')
        copy_layer(getattr(block, f'conv{i}'), norm, inner)
      if block.downsample is not None:
        copy_layer(block.downsample.conv, block.downsample.norm, layer.shortcut)


@pytest.mark.parametrize(
  'name, layer_type, depths, hidden_sizes',
  [
    ('resnet18', 'basic', (2, 2, 2, 2), (64, 128, 256, 512)),
    ('resnet50', 'bottleneck', (3, 4, 6, 3), (256, 512, 1024, 2048)),
  ],
)
def test_resnet(name, layer_type, depths, hidden_sizes):
  model = hugging_face_resnet(layer_type, depths, hidden_sizes)
  encoder = models.create(name, rngs=nnx.Rngs(0))
  copy_weights(encoder, model)
  encoder = nnx.view(encoder, use_running_average=True)
  image_NHWC = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
  image_NHWC = image_NHWC.astype(np.float32)
  graphdef, state = nnx.split(encoder)
  run = jax.jit(lambda state, image: nnx.merge(graphdef, state)(image))
  ours = run(state, jnp.asarray(image_NHWC))
  with torch.no_grad():
    pixels = torch.from_numpy(image_NHWC.transpose(0, 3, 1, 2).copy())
    theirs = model(pixels).pooler_output[:, :, 0, 0].numpy()
  # A feature near zero is a small difference of large ones.
  atol = 1e-6 * np.abs(theirs).max()
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


def test_batch_norm_in_training():
  from mrl_jax.models.batch_norm import BatchNorm

  x = np.random.default_rng(0).normal(2, 3, (4, 3, 3, 5)).astype(np.float32)
  ours, theirs = BatchNorm(5, rngs=nnx.Rngs(0)), torch.nn.BatchNorm2d(5)
  for _ in range(3):
    y = ours(jnp.asarray(x))
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
  expected = expected.detach().numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(ours.mean[...], theirs.running_mean, rtol=1e-5)
  np.testing.assert_allclose(ours.var[...], theirs.running_var, rtol=1e-5)
