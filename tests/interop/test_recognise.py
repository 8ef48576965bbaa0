"""Files of PyTorch that look alike: told apart, obeyed, or refused by name."""

import dataclasses
import json

from flax import nnx
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax import stages
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch import load
from mrl_jax.interop.pytorch import other_architectures
from mrl_jax.models import convnext
from mrl_jax.models import geometry
from mrl_jax.models import resnet
from mrl_jax.models import vit
from mrl_jax.stages import import_torch
from tests.interop.test_torch_import import assert_same
from tests.interop.test_torch_import import create
from tests.interop.test_torch_import import randomised
from tests.interop.test_torch_import import run_command
from tests.interop.test_torch_import import saved

BLOCKS = resnet.Variant((2, 1), (16, 8))
TINY = {
  'resnet': resnet.Variant((1, 2), (16, 32), False),
  'bottleneck': BLOCKS,
  'bottleneck_v1': dataclasses.replace(BLOCKS, stride_in_1x1=True),
  'convnext': convnext.Variant((1, 2), (8, 16)),
  'vit': vit.Variant(16, depth=2, num_heads=2, patch=4),
}


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch):
  for name, variant in TINY.items():
    monkeypatch.setitem(models.ENCODERS, name, variant)


def tensors_of(name='resnet', style='timm', kind='fixed', **kwargs):
  return arrays.to_torch(randomised(name, kind, **kwargs), style)


def written(tmp_path, tensors, config=None):
  if config is not None:
    (tmp_path / 'config.json').write_text(json.dumps(config))
  return saved(tensors, tmp_path / 'model.safetensors')


def prefixed(tensors, prefix):
  return {prefix + key: x for key, x in tensors.items()}


@pytest.mark.parametrize(
  'prefix',
  [
    'backbone.', 'module.pre.', 'encoder.', 'model.', 'student.backbone.',
    'net.', 'teacher.', 'state_dict.module.', 'module._orig_mod.x.y.',
  ],
)  # fmt: skip
@pytest.mark.parametrize(
  'name, style',
  [('resnet', 'timm'), ('vit', 'huggingface'), ('convnext', 'timm')],
)
def test_a_prefix_is_left_away_and_said(prefix, name, style, tmp_path):
  path = written(tmp_path, prefixed(tensors_of(name, style), prefix))
  model = create(name, 'fixed', seed=1)
  form, has_head = load.load(path, model, encoder=name)
  assert has_head
  assert_same(model, randomised(name, 'fixed'))
  assert form.prefix == prefix
  said = ' '.join(form.remarks(form.variant))
  assert f'the prefix {prefix} of its keys is left away' in said


def test_what_is_beside_the_network_is_left_out_and_said(tmp_path):
  tensors = prefixed(tensors_of(), 'module.encoder_q.')
  tensors['module.queue'] = np.ones((2, 3), np.float32)
  form = load.open_checkpoint(written(tmp_path, tensors)).contents
  # The `fc` of contrastive learning is a projection.
  assert form.classifier is None
  assert form.left_out == ('module.queue', 'module.encoder_q.fc')


@pytest.mark.parametrize('other', ['module.encoder_k.', 'ema.', 'a.b.c.'])
def test_of_two_networks_one_must_be_named(other, tmp_path):
  first, second = randomised(), create(seed=2)
  tensors = {
    **prefixed(arrays.to_torch(first, 'timm'), 'module.encoder_q.'),
    **prefixed(arrays.to_torch(second, 'timm'), other),
  }
  path = written(tmp_path, tensors)
  with pytest.raises(ValueError, match=r'holds 2 networks, with the prefixes'):
    load.open_checkpoint(path)
  for prefix, expected in ((other, second), ('module.encoder_q', first)):
    model = create(seed=1)
    load.load(path, model, encoder='resnet', prefix=prefix)
    assert_same(model.encoder, expected.encoder)
  with pytest.raises(ValueError, match=r"prefix 'nowhere': must begin a key"):
    load.open_checkpoint(path, prefix='nowhere')


def test_dicts_in_dicts_have_prefixes(tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  tensors = {k: torch.from_numpy(x) for k, x in tensors_of().items()}
  ema = {k: x + 1 for k, x in tensors.items()}
  optimizer = {'state': {0: {'momentum_buffer': torch.ones(2)}}, 'groups': [1]}
  content = {'epoch': 3, 'model': tensors, 'optimizer': optimizer}
  torch.save(content, tmp_path / 'one.ckpt')
  form = load.open_checkpoint(tmp_path / 'one.ckpt').contents
  assert form.prefix == 'model.' and form.left_out == ('optimizer',)
  torch.save({**content, 'model_ema': ema}, tmp_path / 'two.pth.tar')
  with pytest.raises(ValueError, match="prefixes 'model', 'model_ema': name"):
    load.open_checkpoint(tmp_path / 'two.pth.tar')
  form = load.open_checkpoint(
    tmp_path / 'two.pth.tar', prefix='model_ema'
  ).contents
  assert form.prefix == 'model_ema.'


@pytest.mark.parametrize(
  'key, dtype, value, match',
  [
    ('layer1.0.bn1.weight', 'float32', np.nan, 'are NaN or infinite'),
    ('layer1.0.bn1.weight', 'float64', 1e300, 'are NaN or infinite'),
    ('layer1.0.bn1.running_var', 'float32', -0.5, 'negative variance, -0.5'),
    ('layer1.0.bn1.weight', 'complex64', 1, 'is of C64: weights must be'),
    ('layer1.0.bn1.weight', 'int8', 1, 'is of I8: weights must be'),
    ('fc.weight', 'float32', np.inf, 'are NaN or infinite'),
  ],
)
def test_values_that_are_no_weights(key, dtype, value, match, tmp_path):
  tensors = tensors_of()
  tensors[key] = np.full(tensors[key].shape, value, dtype)
  path = written(tmp_path, tensors)
  with pytest.raises(ValueError, match=rf'safetensors: {key} .*{match}'):
    load.load(path, create(kind='fixed', dims=(8,)), encoder='resnet')


@pytest.mark.parametrize(
  'dtype, match',
  [
    ('bfloat16', ''),
    ('float8_e4m3fn', r'is of F8_E4M3: weights must be float16'),
  ],
)
def test_small_floats_in_safetensors(dtype, match, tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  from safetensors.torch import save_file

  tensors = {
    key: torch.from_numpy(x).to(getattr(torch, dtype))
    for key, x in tensors_of().items()
  }
  path = tmp_path / 'model.safetensors'
  save_file(tensors, path)
  model = create(kind='fixed', seed=1)
  if match:
    with pytest.raises(ValueError, match=match):
      load.load(path, model, encoder='resnet')
  else:
    load.load(path, model, encoder='resnet')
    expected = tensors['conv1.weight'].float().numpy().transpose(2, 3, 1, 0)
    kernel = model.encoder.conv1.conv.kernel[...]
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
  'keys, name',
  [
    (['layers.0.blocks.0.attn.relative_position_bias_table'], 'a Swin'),
    (['blocks.0.attn.q_bias', 'cls_token'], 'a BEiT'),
    (['dist_token', 'blocks.0.norm1.weight'], 'a distilled DeiT'),
    (['visual.conv1.weight', 'visual.layer1.0.conv1.weight'], 'a CLIP'),
    (['register_tokens', 'blocks.0.ls1.gamma'], 'a transformer with register'),
    (['blocks.0.ls1.gamma'], 'a transformer with layer scale'),
    (['conv_stem.weight', 'blocks.0.0.conv_pw.weight'], 'an EfficientNet'),
    (['features.0.0.weight', 'features.1.conv.0.0.weight'], 'an EfficientNet'),
    (['features.denseblock1.denselayer1.norm1.weight'], 'a DenseNet'),
    (['features.0.weight', 'classifier.0.weight'], 'a VGG'),
    (['regnet.encoder.stages.0.layers.0.shortcut.bias'], 'a RegNet'),
    (['bert.embeddings.word_embeddings.weight'], 'a text model'),
    (['Mixed_5b.branch1x1.conv.weight'], 'an Inception'),
    (['stages.0.blocks.0.attn_grid.qkv.weight'], 'a MaxViT'),
    (['blocks.0.mlp.w12.weight'], 'an EVA'),
    (['stages.0.blocks.0.mlp.grn.weight'], 'a ConvNeXt v2'),
    (['layer1.0.se.fc1.weight'], 'a ResNet with squeeze'),
    (['layer1.0.conv1.weight_packed_params'], 'a quantised model'),
    (['base_model.model.x.lora_A.weight'], 'a LoRA'),
    (['conv1.weight', 'layer1.0.bn1.bias'], ''),
  ],
)
def test_architectures_have_names(keys, name):
  found = other_architectures.architecture(keys)
  assert found.startswith(name) and bool(found) == bool(name)


def test_no_key_of_an_encoder_here_gives_away_another():
  for name in TINY:
    for style in ('timm', 'huggingface'):
      assert not other_architectures.architecture(tensors_of(name, style)), name


def test_an_extra_module_names_the_architecture(tmp_path):
  tensors = tensors_of('vit')
  for b in range(2):
    tensors[f'blocks.{b}.ls1.gamma'] = np.ones(16, np.float32)
  path = written(tmp_path, tensors)
  with pytest.raises(ValueError, match='looks like a transformer with layer s'):
    load.load(path, create('vit', 'fixed'), encoder='vit')


def test_the_resnet_of_a_segmentation_network_needs_its_stride(tmp_path):
  tensors = prefixed(tensors_of(), 'backbone.')
  tensors['classifier.4.weight'] = np.zeros((5, 8, 1, 1), np.float32)
  path = written(tmp_path, tensors)
  with pytest.raises(ValueError, match='no array tells: give --output_stride'):
    load.open_checkpoint(path)
  form = load.open_checkpoint(path, options={'output_stride': 8}).contents
  assert 'output_stride' not in form.unstated


TIMM = {
  'architecture': 'vit_base_patch4_8',
  'pretrained_cfg': {'mean': [0.5] * 3, 'std': [0.5] * 3, 'crop_pct': 0.9,
                     'input_size': [3, 8, 8], 'interpolation': 'bicubic'},
}  # fmt: skip
VIT = {
  'model_type': 'vit',
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'patch_size': 4,
  'image_size': 8,
}


@pytest.fixture
def tiny_timm(monkeypatch):
  """The tiny ViT under the name of one of timm's."""
  monkeypatch.delitem(models.ENCODERS, 'vit')
  monkeypatch.setitem(models.ENCODERS, 'vit_b4', TINY['vit'])


@pytest.mark.parametrize(
  'args, options, untold',
  [
    ({}, {}, ()),
    ({'num_heads': 4}, {'num_heads': 4}, ()),
    (
      {'global_pool': 'avg', 'fc_norm': False},
      {'pooling': 'mean'},
      (),
    ),
    ({'drop_path_rate': 0.3, 'norm_layer': None}, {}, ()),
  ],
)
def test_timms_config_is_obeyed(args, options, untold, tmp_path, tiny_timm):
  path = written(tmp_path, tensors_of('vit_b4'), {**TIMM, 'model_args': args})
  form = load.open_checkpoint(path).contents
  assert form.encoder == 'vit_b4' and form.options == options
  assert form.unstated == untold
  assert form.config_json.image == {
    'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'eval_image_size': 8,
    'eval_resize': 9,
  }  # fmt: skip
  assert 'bilinearly, not bicubic' in form.remarks(form.variant)[0]


@pytest.mark.parametrize(
  'change, match',
  [
    ({'architecture': 'seresnet50'}, "timm's seresnet50, which is no encoder"),
    ({'architecture': 'resnet18'}, "timm's resnet18, but its arrays are of vi"),
    ({'num_classes': 9}, 'says 9 classes, but the classifier .* has 5'),
    ({'model_args': {'act_layer': 'silu'}}, "model_args.act_layer='silu'"),
    ({'model_args': {'depth': 3}}, 'with depth 3, but its arrays are of vit_b'),
    ({'model_args': {'num_heads': 5}}, 'num_heads 5: must divide the width 16'),
    ({'model_args': {'in_chans': 1}}, 'in_chans 1: must be 3'),
    ({'global_pool': 'map'}, "global_pool 'map': must be token or avg"),
    ({'pretrained_cfg': 3}, 'not as expected: .*pretrained_cfg'),
  ],
)
def test_timms_config_that_contradicts(change, match, tmp_path, tiny_timm):
  path = written(tmp_path, tensors_of('vit_b4'), {**TIMM, **change})
  with pytest.raises(ValueError, match=match):
    load.open_checkpoint(path)


@pytest.mark.parametrize(
  'change, match',
  [
    ({'model_type': 'swin'}, "transformers' swin, which is no encoder here"),
    ({'num_hidden_layers': 3}, 'depth 3, but its arrays are of vit, with dep'),
    ({'hidden_act': 'relu'}, "hidden_act 'relu': must be gelu"),
    ({'image_size': 16}, 'images of 16 pixels, .* in the file are for 8'),
    ({'id2label': {'0': 'a'}}, 'says 1 classes, but the classifier .* has 5'),
    ({'layer_norm_eps': 0.1}, 'layer_norm_eps 0.1: must be at most 1e-05'),
    ({'model_type': 3}, 'not as expected: .*model_type'),
  ],
)
def test_transformers_config_that_contradicts(change, match, tmp_path):
  tensors = tensors_of('vit', 'huggingface')
  path = written(tmp_path, tensors, {**VIT, **change})
  with pytest.raises(ValueError, match=match):
    load.open_checkpoint(path)


def test_a_config_of_neither_library_is_refused(tmp_path):
  path = written(tmp_path, tensors_of(), {'lr': 0.1})
  with pytest.raises(ValueError, match=r"neither transformers' .* nor timm's"):
    load.open_checkpoint(path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match=r'config\.json is not JSON'):
    load.open_checkpoint(path)


def test_a_preprocessor_config_is_read(tmp_path):
  path = written(tmp_path, tensors_of('vit', 'huggingface'), VIT)
  content = {'image_mean': [0.1] * 3, 'image_std': [0.2] * 3, 'resample': 2}
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(content))
  image = load.open_checkpoint(path).contents.config_json.image
  assert image['mean'] == (0.1,) * 3 and image['std'] == (0.2,) * 3


def test_what_nothing_tells_is_assumed_and_said(tmp_path):
  path = written(tmp_path, tensors_of('bottleneck'))
  form = load.open_checkpoint(path).contents
  assert form.remarks(form.variant) == [
    'assumed: a 7x7 stem of stride 2 with max-pooling, strides in the 3x3 '
    'convolution, no blurred activations, output stride 32; no array tells, '
    'no config.json is there'
  ]
  given = {'stem': '7x7_stride1', 'output_stride': 16}
  form = load.open_checkpoint(path, options=given).contents
  assert form.unstated == ('stride_in_1x1', 'blur_activations')
  assert form.options == {'stem': '7x7_stride1_pool', 'output_stride': 16}


@pytest.mark.parametrize(
  'name, given, match',
  [
    ('resnet', {'stem': '3x3'}, 'the file says stem 7x7, not 3x3'),
    ('resnet', {'stem': '5x5'}, "stem '5x5': must be 7x7, 3x3 or deep, then"),
    ('resnet', {'num_heads': 3}, 'num_heads 3: must be left out'),
    ('resnet', {'pooling': 'token'}, "pooling 'token': must be left out"),
    ('resnet', {'output_stride': 4}, 'output_stride 4: must be 8 or 16 or 32'),
    ('vit', {'output_stride': 8}, 'output_stride 8: must be left out'),
    ('vit', {'num_heads': 3}, 'num_heads 3: must divide the width 16'),
    ('vit', {'pooling': 'max'}, "pooling 'max': must be token or mean"),
  ],
)
def test_options_that_cannot_be(name, given, match, tmp_path):
  path = written(tmp_path, tensors_of(name))
  with pytest.raises(ValueError, match=match):
    load.open_checkpoint(path, options=given)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('7x7', ('7x7', 2, True)), ('3x3', ('3x3', 1, False)),
    ('3x3_stride2_pool', ('3x3', 2, True)), ('deep', ('deep', 2, True)),
    ('7x7_stride1_no_pool', ('7x7', 1, False)),
  ],
)  # fmt: skip
def test_stems_there_and_back(text, expected):
  fields = geometry.stem_fields(text)
  assert (*fields.values(),) == expected
  variant = geometry.changed(TINY['resnet'], stem=text)
  assert geometry.stem_fields(geometry.stem_text(variant)) == fields


def test_a_config_that_contradicts_the_file(tmp_path):
  path = written(tmp_path, tensors_of('vit', 'huggingface'),
                 {**VIT, 'num_attention_heads': 4})  # fmt: skip
  with pytest.raises(
    ValueError, match=r'needs --config.encoder=vit --config.num_heads=4, here'
  ):
    load.load(path, create('vit', 'fixed'), encoder='vit')
  model = create('vit', 'fixed', num_heads=4)
  options = {'num_heads': 4}
  load.load(path, model, encoder='vit', options=options)
  assert model.encoder.blocks[0].num_heads == 4


@pytest.mark.parametrize(
  'kind, fields, named',
  [
    (
      'ResNet',
      {'depths': [2, 1], 'hidden_sizes': [64, 32], 'embedding_size': 16,
       'downsample_in_bottleneck': True},
      'bottleneck_v1',
    ),
    (
      'ViT',
      {'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 4,
       'intermediate_size': 64, 'patch_size': 4, 'image_size': 8,
       'layer_norm_eps': 1e-6},
      'vit',
    ),
  ],
)  # fmt: skip
def test_transformers_gives_the_same_logits(kind, fields, named, tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  config = getattr(transformers, f'{kind}Config')(num_labels=5, **fields)
  theirs = getattr(transformers, f'{kind}ForImageClassification')(config)
  for key, x in theirs.state_dict().items():
    if key.endswith(('weight', 'bias', 'running_mean', 'token', 'embeddings')):
      x.normal_(std=0.3)
  theirs.eval().save_pretrained(tmp_path)
  path = tmp_path / 'model.safetensors'
  form = load.open_checkpoint(path).contents
  assert form.encoder == named and not form.unstated
  width = form.variant.num_features
  model = create(named, 'fixed', dims=(width,), seed=1, **form.options)
  options = {'encoder': named, 'options': form.options}
  assert load.load(path, model, **options)[1]
  side = fields.get('image_size', 16)
  image = np.random.default_rng(0).normal(size=(2, side, side, 3))
  image_NHWC = image.astype(np.float32)
  with torch.no_grad():
    pixels = torch.from_numpy(image_NHWC.transpose(0, 3, 1, 2).copy())
    expected_NC = theirs(pixels).logits.numpy()
  model = nnx.view(model, use_running_average=True, raise_if_not_found=False)
  logits_NC = nnx.jit(lambda model, x: model(x))(model, image_NHWC)[0]
  scale = np.abs(expected_NC).max()
  np.testing.assert_allclose(logits_NC / scale, expected_NC / scale, atol=1e-5)


def test_an_encoder_alone_is_embedded_and_measured_on_one_split(
  config, tmp_path, monkeypatch, capsys
):
  # Freshly drawn, as embeddings of positive weights all point the same way.
  tensors = arrays.to_torch(create(kind='fixed', seed=3), 'timm')
  tensors = {key: x for key, x in tensors.items() if 'fc.' not in key}
  path = written(tmp_path, tensors)
  out = tmp_path / 'out'
  run_command(monkeypatch, path, f'--out={out}', '--nesting_dims=2,32')
  assert 'resnet: in' in (said := capsys.readouterr().out)
  assert 'without a classifier' in said and 'assumed: a 7x7 stem' in said
  recorded = json.loads((out / 'config.json').read_text())
  from configs import imported as config_of_imports

  tuned = config_of_imports.get_config(str(out))
  tuned.update(
    dataset='digits', data_dir=config.data_dir, eval_batch_size=32,
    train_split='test[:40]', eval_split='test[:40]', image_size=8,
    eval_image_size=8, eval_resize=0,
  )  # fmt: skip
  tuned.mesh.data = 1
  assert tuned.nesting_dims == (2, 32) == tuple(recorded['nesting_dims'])
  with pytest.raises(ValueError, match="stage 'analyze': needs a classifier"):
    stages.run(tuned, out, ('analyze',))
  with pytest.raises(ValueError, match=r'imported, and has no .*init_from'):
    stages.run(tuned, out, ('train',))
  stages.run(tuned, out, ('embed', 'evaluate'))
  values = json.loads((out / 'evaluation/val.json').read_text())['values']
  # By hand, from the embeddings.
  x = np.load(next((out / 'embeddings').glob('*-x.npy')))
  y = np.load(next((out / 'embeddings').glob('*-y.npy')))
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  cosine = unit @ unit.T - 2 * np.eye(len(x))
  expected = 100 * (y[cosine.argmax(1)] == y).mean()
  assert values['knn1@32'] == pytest.approx(expected)
  assert not any(name.startswith(('top1', 'loss')) for name in values)


def test_a_workdir_of_other_pixels_is_refused(config, tmp_path, tiny_timm):
  path = written(tmp_path, tensors_of('vit_b4'), TIMM)
  config.update(encoder='vit_b4', nesting_dims=(8,), eval_dims=(), head='fixed')
  with pytest.raises(ValueError, match=r'config.json says mean \(0.5, 0.5, 0'):
    import_torch.write(path, tmp_path / 'out', config=config)
