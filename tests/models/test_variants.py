"""Variants of the encoders: sizes, names, and numbers beside PyTorch's."""

import dataclasses
import functools
import hashlib
import math
import re

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch import names
from mrl_jax.interop.pytorch import recognise
from mrl_jax.models import convnext
from mrl_jax.models import resnet
from mrl_jax.models import slimmable
from mrl_jax.models import vit

NUM_CLASSES = 5
BASIC = {'depths': (1, 2), 'widths': (16, 32), 'bottleneck': False}
BOTTLENECK = {'depths': (1, 2), 'widths': (16, 8)}
D = {'stem': 'deep', 'average_shortcut': True}
RESNETS = {
  '3x3': resnet.Variant(**BASIC, stem='3x3', stem_stride=1, stem_pool=False),
  'deep_stride1': resnet.Variant((1, 1), (16, 32), False, **D, stem_stride=1),
  'dilated_basic': resnet.Variant(
    (1, 1, 2, 1), (4, 4, 4, 8), False, stem='3x3', output_stride=8
  ),
  'wide_v1_stride1': resnet.Variant(
    **BOTTLENECK,
    width_per_group=128,
    stem_stride=1,
    stem_pool=False,
    stride_in_1x1=True,
  ),
  'resnext_d': resnet.Variant(
    (1, 1), (16, 8), **D, groups=4, width_per_group=16
  ),
  'blur': resnet.Variant((1, 1), (16, 8), blur_activations=True),
  'dilated': resnet.Variant((1, 1, 2), (4, 4, 8), output_stride=8),
}
V1 = resnet.Variant(**BOTTLENECK, stride_in_1x1=True)
VITS = {
  'token': vit.Variant(24, depth=2, num_heads=3, patch=14),
  'mean': vit.Variant(24, depth=1, num_heads=6, patch=14, pooling='mean'),
}
CONVNEXT = convnext.Variant((1, 2), (8, 16))


def abstract(variant, monkeypatch, side=8):
  """A classifier of the variant, which is the only one that has a name."""
  monkeypatch.setattr(models, 'ENCODERS', {'tiny': variant})
  return nnx.eval_shape(
    lambda: models.Classifier(
      'tiny',
      (variant.num_features,),
      NUM_CLASSES,
      head='fixed',
      image_size=side,
      rngs=nnx.Rngs(0),
    )
  )


def slots_of(model, style):
  prefix = names.FAMILIES[names.family_of(model.encoder)].heads[style]
  return (
    arrays.encoder_slots(model.encoder, style),
    arrays.head_slots(model.head, prefix, nested=False),
  )


def draw(key, shape, rng):
  """Numbers that keep activations near 1; nothing is constant."""
  if len(shape) == 1 and not key.endswith(('bias', 'mean')):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
  return rng.normal(0, scale, shape).astype(np.float32)


def filled(model, style):
  """The state dict that the model is filled with; both ways are checked."""
  rng = np.random.default_rng(0)
  encoder, head = slots_of(model, style)
  tensors = {
    key: draw(key, slot.shape, rng) for key, slot in (encoder | head).items()
  }
  form = recognise.recognise({key: x.shape for key, x in tensors.items()})
  assert (form.encoder, form.style) == ('tiny', style)
  assert form.keys.keys() == encoder.keys()
  arrays.fill(model.encoder, encoder, tensors.__getitem__)
  arrays.fill(model.head, head, tensors.__getitem__)
  back = arrays.to_torch(model, style)
  for key, x in tensors.items():
    np.testing.assert_array_equal(back[key], x, key)
  extra = back.keys() - tensors.keys()
  assert all(key.endswith('num_batches_tracked') for key in extra)
  return tensors


def compiled(function, *args):
  """Compiled with little optimisation, in a third of the time."""
  options = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  }
  return jax.jit(function).lower(*args).compile(compiler_options=options)


def compare(model, tensors, network, variant, side):
  """The embedding, and the gradient of a weighted sum of it, by the image."""
  torch = pytest.importorskip('torch', reason='torch is not installed')
  view = nnx.view(
    model.encoder, use_running_average=True, raise_if_not_found=False
  )
  graphdef, params, rest = nnx.split(view, nnx.Param, ...)
  rng = np.random.default_rng(1)
  image_NHWC = rng.normal(size=(2, side, side, 3)).astype(np.float32)
  weight_D = rng.normal(size=variant.num_features).astype(np.float32)

  def loss(image_NHWC, params):
    embedding_ND = nnx.merge(graphdef, params, rest)(image_NHWC)
    return (embedding_ND @ weight_D).sum(), embedding_ND

  arguments = jnp.asarray(image_NHWC), params
  run = compiled(
    jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), *arguments
  )
  (_, ours_ND), (ours_NHWC, gradients) = run(*arguments)
  for path, x in nnx.to_flat_state(gradients):
    assert np.isfinite(x[...]).all(), path
  pixels = torch.tensor(image_NHWC.transpose(0, 3, 1, 2), requires_grad=True)
  tensors = {key: torch.tensor(x) for key, x in tensors.items()}
  theirs_ND = network(tensors, variant, pixels)
  (theirs_ND @ torch.tensor(weight_D)).sum().backward()
  theirs_NHWC = pixels.grad.numpy().transpose(0, 2, 3, 1)
  for x, expected in (
    (ours_ND, theirs_ND.detach().numpy()),
    (ours_NHWC, theirs_NHWC),
  ):
    assert np.abs(expected).max() > 1e-3
    error = np.abs(x - expected).max() / np.abs(expected).max()
    assert error < 1e-4


@pytest.mark.parametrize('name', RESNETS)
def test_resnet(name, monkeypatch):
  networks = pytest.importorskip('tests.models.torch_networks')
  # All sides are odd, so that the ends of pooling count.
  side = 49 if 'dilated' in name else 19
  model = abstract(RESNETS[name], monkeypatch)
  tensors = filled(model, 'timm')
  compare(model, tensors, networks.resnet, RESNETS[name], side)


@pytest.mark.parametrize('name', VITS)
def test_vit(name, monkeypatch):
  networks = pytest.importorskip('tests.models.torch_networks')
  model = abstract(VITS[name], monkeypatch, side=28)
  tensors = filled(model, 'torchvision')
  compare(model, tensors, networks.vit, VITS[name], 28)


def test_convnext(monkeypatch):
  networks = pytest.importorskip('tests.models.torch_networks')
  model = abstract(CONVNEXT, monkeypatch)
  tensors = filled(model, 'torchvision')
  compare(model, tensors, networks.convnext, CONVNEXT, 32)


def test_the_norm_after_the_mean(monkeypatch):
  """timm's `fc_norm`: the mean of the tokens is normed, they are not."""
  torch = pytest.importorskip('torch', reason='torch is not installed')
  variant = vit.Variant(
    16, depth=1, num_heads=2, patch=4, pooling='mean_then_norm'
  )
  model = abstract(variant, monkeypatch)
  tensors = filled(model, 'timm')
  x = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
  expected = torch.nn.functional.layer_norm(
    torch.tensor(x[:, 1:].mean(1)),
    (16,),
    torch.tensor(tensors['fc_norm.weight']),
    torch.tensor(tensors['fc_norm.bias']),
    eps=1e-6,
  )
  ours = model.encoder.from_features(jnp.asarray(x))
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_stride_in_the_1x1_is_transformers(monkeypatch, tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  config = transformers.ResNetConfig(
    embedding_size=16,
    hidden_sizes=[64, 32],
    depths=[1, 2],
    downsample_in_bottleneck=True,
  )
  theirs = transformers.ResNetModel(config).eval()
  model = abstract(V1, monkeypatch)
  tensors = {key: x.numpy() for key, x in theirs.state_dict().items()}
  slots, _ = slots_of(model, 'huggingface')
  arrays.fill(model.encoder, slots, tensors.__getitem__)
  x = np.random.default_rng(0).normal(size=(2, 19, 19, 3)).astype(np.float32)
  with torch.no_grad():
    pixels = torch.tensor(x.transpose(0, 3, 1, 2))
    expected = theirs(pixels).pooler_output.numpy().reshape(2, -1)
  encoder = nnx.view(model.encoder, use_running_average=True)
  graphdef, state = nnx.split(encoder)
  ours = compiled(lambda s, x: nnx.merge(graphdef, s)(x), state, x)(state, x)
  assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
  'variant, style, expected',
  [
    # Every key and shape of these networks of torchvision 0.28 and timm 1.0.31,
    # without the counts of batches.
    (resnet.Variant((2, 1), (16, 8), **D), 'timm', '6cc7e853e36239d7'),
    (resnet.Variant(**BASIC, **D), 'timm', '04fe400a942cd365'),
    (
      resnet.Variant((1, 1, 1, 1), groups=32, width_per_group=4),
      'timm',
      '7c4001427eb8815d',
    ),
    (
      resnet.Variant((1, 1, 1, 1), width_per_group=128),
      'timm',
      '6752a88e53bb4d6f',
    ),
    (
      vit.Variant(16, 2, 2, patch=4, pooling='mean_then_norm'),
      'timm',
      'e7077cf210116bca',
    ),
    (vit.Variant(16, 2, 2, patch=4), 'torchvision', 'e7c8853fa7aaa27e'),
    (CONVNEXT, 'torchvision', '86b5cf1414209ed9'),
  ],
)
def test_names_are_those_of_the_libraries(
  variant, style, expected, monkeypatch
):
  encoder, head = slots_of(abstract(variant, monkeypatch), style)
  slots = encoder | head
  lines = sorted(f'{key} {slot.shape}' for key, slot in slots.items())
  digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()
  assert digest[:16] == expected, lines[:5]


@pytest.mark.parametrize(
  'name, classes, expected',
  [
    # As often published for CIFAR-10.
    ('resnet18_3x3', 10, 11_173_962),
    ('resnet50_3x3', 10, 23_520_842),
    # torchvision's counts.
    ('wide_resnet50_2', 1000, 68_883_240),
    ('wide_resnet101_2', 1000, 126_886_696),
    ('resnext50_32x4d', 1000, 25_028_904),
    ('resnext101_32x8d', 1000, 88_791_336),
    ('resnext101_64x4d', 1000, 83_455_272),
    ('vit_b32', 1000, 88_224_232),
    ('vit_l16', 1000, 304_326_632),
    ('vit_l32', 1000, 306_535_400),
    ('vit_h14', 1000, 632_045_800),
    ('convnext_large', 1000, 197_767_336),
    # timm's counts.
    ('resnet18d', 1000, 11_708_744),
    ('resnet34d', 1000, 21_816_904),
    ('resnet50d', 1000, 25_576_264),
    ('resnet101d', 1000, 44_568_392),
    ('resnet152d', 1000, 60_212_040),
    ('resnext101_32x4d', 1000, 44_177_704),
    ('vit_ti16', 1000, 5_717_416),
    ('vit_s8', 1000, 21_670_272 + 385_000),
    ('vit_s32', 1000, 22_878_952),
    ('vit_b8', 1000, 86_576_872),
    ('vit_l14', 1000, 304_203_752),
    ('convnext_atto', 1000, 3_695_520),
    ('convnext_femto', 1000, 5_217_784),
    ('convnext_pico', 1000, 9_045_672),
    ('convnext_nano', 1000, 15_593_560),
    ('convnext_xlarge', 1000, 350_196_968),
  ],
)
def test_parameter_counts(name, classes, expected):
  assert num_parameters(models.ENCODERS[name], classes) == expected


def num_parameters(variant, num_classes):
  """By a network of two blocks a stage, of which the second is repeated."""
  if isinstance(variant, vit.Variant):
    depths = {'blocks.1.': variant.depth}
    short = dataclasses.replace(variant, depth=2)
  else:
    stage = 'layer' if isinstance(variant, resnet.Variant) else 'stage'
    depths = {f'{stage}{s}.1.': n for s, n in enumerate(variant.depths, 1)}
    short = dataclasses.replace(variant, depths=(2,) * len(variant.depths))
  count = num_classes * (variant.num_features + 1)
  for name, size in sizes(short).items():
    times = [n - 1 for start, n in depths.items() if name.startswith(start)]
    count += size * (times or [1])[0]
  return count


@functools.cache
def sizes(variant):
  """The number of elements of every parameter, by its path."""
  network, options = {
    resnet.Variant: (resnet.ResNet, {}),
    convnext.Variant: (convnext.ConvNeXt, {}),
    vit.Variant: (vit.ViT, {'image_size': 224}),
  }[type(variant)]
  encoder = nnx.eval_shape(
    lambda: network(variant, **options, rngs=nnx.Rngs(0))
  )
  params = nnx.to_flat_state(nnx.state(encoder, nnx.Param))
  return {'.'.join(map(str, k)): math.prod(x.shape) for k, x in params}


@pytest.mark.parametrize(
  'name, like',
  [
    ('resnet18_7x7_stride1', 'resnet18'),
    ('resnet50_7x7_stride1', 'resnet50'),
    ('resnet50_v1', 'resnet50'),
    ('resnet101_v1', 'resnet101'),
    ('resnet152_v1', 'resnet152'),
    ('resnetblur50', 'resnet50'),
  ],
)
def test_what_no_array_shows_is_another_encoder(name, like):
  variant, plain = models.ENCODERS[name], models.ENCODERS[like]
  assert variant != plain
  unseen = ('stem_stride', 'stride_in_1x1', 'blur_activations')
  same = {field: getattr(plain, field) for field in unseen}
  assert dataclasses.replace(variant, **same) == plain


def test_torchvisions_older_names_of_a_vit(monkeypatch):
  """Its released files have names that its code has no more."""
  model = abstract(vit.Variant(16, 2, 2, patch=4), monkeypatch)
  shapes = {
    key: slot.shape for key, slot in slots_of(model, 'torchvision')[0].items()
  }
  old = {'mlp.0': 'mlp.linear_1', 'mlp.3': 'mlp.linear_2'}
  rename = lambda key: re.sub(r'mlp\.[03]', lambda m: old[m[0]], key)
  form = recognise.recognise({rename(k): shape for k, shape in shapes.items()})
  assert {key: rename(key) for key in shapes} == form.keys
  assert any('linear_2' in name for name in form.keys.values())


def test_linear_layers_that_are_1x1_convolutions(monkeypatch):
  """As in timm's smallest ConvNeXts."""
  model = abstract(CONVNEXT, monkeypatch)
  slots, _ = slots_of(model, 'timm')
  rng = np.random.default_rng(0)
  tensors = {key: draw(key, slot.shape, rng) for key, slot in slots.items()}
  is_linear = lambda key: key.endswith(('fc1.weight', 'fc2.weight'))
  read = lambda key: (
    tensors[key][..., None, None] if is_linear(key) else tensors[key]
  )
  arrays.fill(model.encoder, slots, read)
  kernel = model.encoder.stage2[1].fc1.kernel[...]
  weight = tensors['stages.1.blocks.1.mlp.fc1.weight']
  np.testing.assert_array_equal(kernel, weight.T)


@pytest.mark.parametrize(
  'family, fields, match',
  [
    (resnet, {'stem': '5x5'}, "stem '5x5': must be 7x7 or 3x3 or deep"),
    (resnet, {'stem_stride': 4}, 'stem_stride 4: must be 1 or 2'),
    (resnet, {'output_stride': 4}, 'output_stride 4: must be 8 or 16 or 32'),
    (
      resnet,
      {'bottleneck': False, 'groups': 2},
      'groups 2: must be 1 without bottlenecks',
    ),
    (
      resnet,
      {'average_shortcut': True, 'output_stride': 8},
      'output_stride 8: must be 32 with average_shortcut',
    ),
    (vit, {'num_heads': 5}, 'num_heads 5: must divide the width 24'),
    (vit, {'pooling': 'max'}, "pooling 'max': must be token or mean or mean_"),
  ],
)
def test_a_geometry_that_is_none(family, fields, match):
  variant = {resnet: V1, vit: VITS['token']}[family]
  if fields.get('bottleneck') is False:
    variant = RESNETS['3x3']
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(variant, **fields)


def test_what_does_not_go_together(monkeypatch):
  with pytest.raises(ValueError, match='must have no groups'):
    slimmable.validate(RESNETS['resnext_d'], (32,), 'mrl_e')
  model = abstract(RESNETS['blur'], monkeypatch)
  with pytest.raises(ValueError, match='blurpool True: tiny blurs its activ'):
    models.validate('tiny', image_size=8, blurpool=True)
  with pytest.raises(
    ValueError, match=r"'torchvision': must be one of \('timm'"
  ):
    arrays.to_torch(model, 'torchvision')
