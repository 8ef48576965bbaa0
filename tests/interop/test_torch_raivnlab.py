"""The released checkpoints' layout: nine heads, BlurPool, computed by torch."""

import copy

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.interop.pytorch import load

torch = pytest.importorskip('torch', reason='torch is not installed')

DIMS = nesting.doubling(8, 2048)
DEPTHS = (3, 4, 6, 3)
NUM_CLASSES = 20


class Layout:
  """Random tensors under the keys of a ResNet-50 with BlurPool, `module.`."""

  def __init__(self):
    self.tensors = {}
    self.random = torch.Generator().manual_seed(0)
    self._conv('conv1', 3, 64, 7)
    self._norm('bn1', 64)
    channels = 64
    for stage, depth in enumerate(DEPTHS, start=1):
      width = 32 * 2**stage
      for block in range(depth):
        name = f'layer{stage}.{block}'
        blurs = stage > 1 and block == 0
        self._conv(f'{name}.conv1', channels, width, 1)
        self._norm(f'{name}.bn1', width)
        self._conv(f'{name}.conv2', width, width, 3, blurs=blurs)
        self._norm(f'{name}.bn2', width)
        self._conv(f'{name}.conv3', width, 4 * width, 1)
        self._norm(f'{name}.bn3', 4 * width)
        if block == 0:
          self._conv(
            f'{name}.downsample.0', channels, 4 * width, 1, blurs=blurs
          )
          self._norm(f'{name}.downsample.1', 4 * width)
        channels = 4 * width

  def _put(self, name, tensor):
    self.tensors[f'module.{name}'] = tensor

  def _normal(self, *shape, std=0.1):
    return torch.randn(*shape, generator=self.random) * std

  def _conv(self, name, channels, out_channels, size, blurs=False):
    std = (2 / (size**2 * channels)) ** 0.5
    if blurs:
      binomial = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
      self._put(f'{name}.blur_filter', binomial.repeat(channels, 1, 1, 1))
      name += '.conv'
    self._put(
      f'{name}.weight',
      self._normal(out_channels, channels, size, size, std=std),
    )

  def _norm(self, name, width):
    self._put(f'{name}.weight', 1 + self._normal(width))
    self._put(f'{name}.bias', self._normal(width))
    self._put(f'{name}.running_mean', self._normal(width))
    self._put(f'{name}.running_var', 1 + self._normal(width).abs())
    self._put(f'{name}.num_batches_tracked', torch.tensor(7))

  def linear(self, name, width):
    self._put(f'{name}.weight', self._normal(NUM_CLASSES, width, std=0.05))
    self._put(f'{name}.bias', self._normal(NUM_CLASSES))


def embed(tensors, x):
  """The ResNet-50 of these tensors, by the functions of torch alone."""
  functional = torch.nn.functional
  get = lambda name: tensors[f'module.{name}']

  def conv(name, x, stride=1):
    if f'module.{name}.blur_filter' in tensors:
      blur = get(f'{name}.blur_filter')
      x = functional.conv2d(x, blur, padding=1, groups=len(blur))
      name += '.conv'
    weight = get(f'{name}.weight')
    padding = weight.shape[-1] // 2
    return functional.conv2d(x, weight, stride=stride, padding=padding)

  def norm(name, x):
    parts = ('running_mean', 'running_var', 'weight', 'bias')
    return functional.batch_norm(x, *(get(f'{name}.{part}') for part in parts))

  x = norm('bn1', conv('conv1', x, 2)).relu()
  x = functional.max_pool2d(x, 3, 2, 1)
  for stage, depth in enumerate(DEPTHS, start=1):
    for block in range(depth):
      name = f'layer{stage}.{block}'
      stride = 2 if stage > 1 and block == 0 else 1
      y = norm(f'{name}.bn1', conv(f'{name}.conv1', x)).relu()
      y = norm(f'{name}.bn2', conv(f'{name}.conv2', y, stride)).relu()
      y = norm(f'{name}.bn3', conv(f'{name}.conv3', y))
      if block == 0:
        x = conv(f'{name}.downsample.0', x, stride)
        x = norm(f'{name}.downsample.1', x)
      x = (x + y).relu()
  return x.mean((2, 3))


@pytest.fixture(scope='module')
def layout():
  return Layout()


@pytest.fixture(scope='module')
def embedded(layout):
  """Images, and their embeddings by torch."""
  image_NHWC = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
  image_NHWC = image_NHWC.astype(np.float32)
  pixels = torch.from_numpy(image_NHWC.transpose(0, 3, 1, 2).copy())
  return image_NHWC, embed(layout.tensors, pixels)


@pytest.fixture(scope='module')
def run():
  """Our encoder with BlurPool, compiled once."""

  @jax.jit
  def apply(state, image_NHWC):
    return nnx.merge(graphdef, state)(image_NHWC)

  graphdef, _ = nnx.split(evaluated(abstract('fixed', (8,)).encoder))
  return apply


def abstract(kind, dims):
  return nnx.eval_shape(
    lambda: models.Classifier(
      'resnet50', dims, NUM_CLASSES, head=kind, blurpool=True, rngs=nnx.Rngs(0)
    )
  )


def evaluated(encoder):
  return nnx.view(encoder, use_running_average=True)


def with_heads(layout, form):
  """All tensors with heads of a form, and how torch computes their logits."""
  layout = copy.copy(layout)
  layout.tensors = dict(layout.tensors)
  if form == 'mrl':
    names = [f'fc.nesting_classifier_{i}' for i in range(len(DIMS))]
    for name, width in zip(names, DIMS, strict=True):
      layout.linear(name, width)
  else:
    name = 'fc.nesting_classifier_0' if form == 'mrl_e' else 'fc'
    layout.linear(name, int(form) if form.isdecimal() else DIMS[-1])
    names = [name] * len(DIMS)

  def logits(embedding_ND):
    for width, name in zip(DIMS, names, strict=True):
      weight = layout.tensors[f'module.{name}.weight'][:, :width]
      used = embedding_ND[:, : weight.shape[1]]
      yield used @ weight.T + layout.tensors[f'module.{name}.bias']

  return layout.tensors, logits


@pytest.mark.parametrize(
  'form, kind, dims, prefix',
  [
    ('mrl', 'mrl', DIMS, 'module.'),
    ('mrl', 'mrl', DIMS, ''),
    ('mrl_e', 'mrl_e', DIMS, 'module.'),
    # What the repository calls an old checkpoint.
    ('old mrl_e', 'mrl_e', DIMS, 'module.'),
    ('2048', 'fixed', (2048,), 'module.'),
    ('16', 'fixed', (16,), 'module.'),
  ],
)
def test_logits(form, kind, dims, prefix, layout, embedded, run, tmp_path):
  tensors, logits = with_heads(layout, form)
  path = tmp_path / 'final_weights.pt'
  torch.save(
    {prefix + name.removeprefix('module.'): x for name, x in tensors.items()},
    path,
  )
  model = abstract(kind, dims)
  found, has_head = load.load(path, model, encoder='resnet50')
  assert has_head and str(found) == "RAIVNLab's resnet50 with BlurPool"
  image_NHWC, theirs_ND = embedded
  state = nnx.split(evaluated(model.encoder))[1]
  ours_ND = run(state, jnp.asarray(image_NHWC))
  np.testing.assert_allclose(
    ours_ND, theirs_ND, atol=1e-4 * float(theirs_ND.abs().max())
  )
  ours_GNC = np.asarray(model.head(ours_ND))
  expected = [*logits(theirs_ND)]
  if kind == 'fixed':
    expected = expected[DIMS.index(dims[0]) :][:1]
  assert len(ours_GNC) == len(expected) == len(dims)
  errors = []
  for ours_NC, theirs_NC in zip(ours_GNC, expected, strict=True):
    scale = np.abs(theirs_NC.numpy()).max()
    errors.append(np.abs(ours_NC - theirs_NC.numpy()).max() / scale)
    assert (ours_NC.argmax(-1) == theirs_NC.numpy().argmax(-1)).all()
  assert max(errors) < 1e-4, errors
