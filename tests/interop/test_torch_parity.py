"""The same random weights through PyTorch models that others wrote.

The weights go by the files that `torch_import` reads, so its tables are tested
with them.
"""

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax.interop.pytorch import load

torch = pytest.importorskip('torch', reason='torch is not installed')
transformers = pytest.importorskip(
  'transformers', reason='transformers is not installed'
)

SIDE = 32
NUM_CLASSES = 50


def hugging_face(name):
  """An image classifier of the `transformers` library, and its encoder."""
  torch.manual_seed(0)
  labels = {'num_labels': NUM_CLASSES}
  if name == 'vit_b16':
    # As in the original and timm; its own default is 1e-12, which shows where
    # tokens are as small as the untrained class token.
    config = transformers.ViTConfig(
      image_size=SIDE, layer_norm_eps=1e-6, **labels
    )
    model = transformers.ViTForImageClassification(config)
    encoder = model.vit
  elif name == 'convnext_tiny':
    config = transformers.ConvNextConfig(**labels)
    model = transformers.ConvNextForImageClassification(config)
    encoder = model.convnext
  else:
    kind = {'resnet18': 'basic', 'resnet50': 'bottleneck'}[name]
    width = {'basic': 64, 'bottleneck': 256}[kind]
    config = transformers.ResNetConfig(
      layer_type=kind,
      depths=(2, 2, 2, 2) if name == 'resnet18' else (3, 4, 6, 3),
      hidden_sizes=[width * 2**i for i in range(4)],
      **labels,
    )
    model = transformers.ResNetForImageClassification(config)
    encoder = model.resnet
  for key, tensor in model.state_dict().items():
    # What is initialised to a constant would hide a mistake.
    if tensor.ndim == 1 and key.endswith(('bias', 'running_mean')):
      tensor.normal_(std=0.1)
    elif key.endswith('layer_scale_parameter'):
      tensor.uniform_(0.1, 0.3)
    elif tensor.ndim == 1:
      tensor.uniform_(0.5, 1.5)
  return model.eval(), encoder


def imported(name, path):
  """Our classifier with the weights in the file, none of them drawn."""
  model = nnx.eval_shape(
    lambda: models.Classifier(
      name,
      (models.num_features(name),),
      NUM_CLASSES,
      head='fixed',
      image_size=SIDE,
      rngs=nnx.Rngs(0),
    )
  )
  _, has_head = load.load(path, model, encoder=name)
  assert has_head
  return nnx.view(model, use_running_average=True, raise_if_not_found=False)


def compare(name, tmp_path):
  """Largest difference by largest value, of each stage; and the logits."""
  theirs, encoder = hugging_face(name)
  path = tmp_path / 'model.pt'
  torch.save(theirs.state_dict(), path)
  ours = imported(name, path)
  names = (*ours.encoder.stage_names, 'embedding')
  graphdef, state = nnx.split(ours)

  @jax.jit
  def run(state, image_NHWC):
    model = nnx.merge(graphdef, state)
    embedding_ND = model.encoder(image_NHWC)
    # A list: JAX sorts the names of a dict.
    stages = [*model.encoder.features(image_NHWC).values(), embedding_ND]
    return stages, model.head(embedding_ND)[0]

  rng = np.random.default_rng(0)
  image_NHWC = rng.normal(size=(4, SIDE, SIDE, 3)).astype(np.float32)
  stages, our_logits_NC = run(state, jnp.asarray(image_NHWC))
  pixels = torch.from_numpy(image_NHWC.transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    outputs = encoder(pixels, output_hidden_states=True)
    logits_NC = theirs(pixels).logits.numpy()
  hidden = [x.numpy() for x in outputs.hidden_states]
  hidden = [x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for x in hidden]
  if name == 'vit_b16':
    hidden.append(outputs.last_hidden_state.numpy()[:, 0])
  else:
    hidden.append(outputs.pooler_output.numpy().reshape(len(pixels), -1))
  errors = {
    stage: np.abs(x - expected).max() / np.abs(expected).max()
    for stage, x, expected in zip(names, stages, hidden, strict=True)
  }
  errors['logits'] = (
    np.abs(our_logits_NC - logits_NC).max() / np.abs(logits_NC).max()
  )
  return errors, our_logits_NC, logits_NC


@pytest.mark.parametrize(
  'name', ['resnet18', 'resnet50', 'convnext_tiny', 'vit_b16']
)
def test_every_stage(name, tmp_path):
  errors, ours_NC, theirs_NC = compare(name, tmp_path)
  assert len(errors) > 5
  for stage, error in errors.items():
    assert error < 1e-4, (stage, errors)
  np.testing.assert_array_equal(ours_NC.argmax(-1), theirs_NC.argmax(-1))


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
