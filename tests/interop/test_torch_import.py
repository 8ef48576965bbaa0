"""Files of PyTorch: every form there and back, and what is refused."""

import functools
import hashlib
import os
import pickle
import sys

import chex
from flax import nnx
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import digits_slimmable
from mrl_jax import models
from mrl_jax import stages
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch import load
from mrl_jax.interop.pytorch import names
from mrl_jax.models import convnext
from mrl_jax.models import resnet
from mrl_jax.models import torch_import
from mrl_jax.models import vit
from mrl_jax.stages import build
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import import_torch
from mrl_jax.stages import init_from
from mrl_jax.workdir import Workdir

TINY = {
  'resnet': resnet.Variant((1, 2), (16, 32), False),
  'bottleneck': resnet.Variant((2, 1), (16, 8)),
  'convnext': convnext.Variant((1, 2), (8, 16)),
  'vit': vit.Variant(16, depth=2, num_heads=2, patch=4),
}
DIMS = {'mrl': (2, 8, 16), 'mrl_e': (2, 8, 16), 'fixed': (8,)}


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch):
  for name, variant in TINY.items():
    monkeypatch.setitem(models.ENCODERS, name, variant)


def create(name='resnet', kind='mrl', seed=0, **kwargs):
  """A model of a tiny encoder, copied where it has been made before."""
  return nnx.clone(_created(name, kind, seed, **kwargs))


@functools.cache
def _created(*args, **kwargs):
  return built(*args, **kwargs)


def built(name, kind='mrl', seed=0, **kwargs):
  return models.Classifier(
    name,
    kwargs.pop('dims', DIMS[kind]),
    kwargs.pop('num_classes', 5),
    head=kind,
    image_size=kwargs.pop('image_size', 8),
    rngs=nnx.Rngs(seed),
    **kwargs,
  )


def randomised(name='resnet', kind='mrl', **kwargs):
  """Statistics, scales and biases random, too; variances are positive."""
  model, rng = create(name, kind, **kwargs), np.random.default_rng(0)
  draw = lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32)
  for kind in (nnx.Param, nnx.BatchStat):
    state = nnx.to_pure_dict(nnx.state(model, kind))
    nnx.update(model, jax.tree.map(draw, state))
  return model


def assert_same(model, other):
  ours, theirs = (
    {name: np.asarray(x) for name, x in arrays.arrays(part).items()}
    for part in (model, other)
  )
  chex.assert_trees_all_equal(ours, theirs)


def saved(tensors, path):
  if path.suffix == '.safetensors':
    save_file(tensors, path)
  else:
    torch = pytest.importorskip('torch', reason='torch is not installed')
    torch.save(
      {k: torch.from_numpy(x.copy()) for k, x in tensors.items()}, path
    )
  return path


@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
@pytest.mark.parametrize(
  'name, style, kind, blurpool, said',
  [
    ('resnet', 'timm', 'fixed', False, "torchvision's or timm's resnet"),
    ('resnet', 'timm', 'mrl', True, "RAIVNLab's resnet with BlurPool"),
    (
      'bottleneck',
      'timm',
      'mrl_e',
      True,
      "RAIVNLab's bottleneck with BlurPool",
    ),
    ('bottleneck', 'huggingface', 'mrl', False, "Hugging Face's bottleneck"),
    ('convnext', 'timm', 'mrl', False, "timm's convnext"),
    ('convnext', 'huggingface', 'fixed', False, "Hugging Face's convnext"),
    ('vit', 'timm', 'mrl_e', False, "timm's vit"),
    ('vit', 'huggingface', 'mrl', False, "Hugging Face's vit"),
  ],
)
def test_there_and_back(name, style, kind, blurpool, said, suffix, tmp_path):
  model = randomised(name, kind, blurpool=blurpool)
  tensors = arrays.to_torch(model, style)
  path = saved(tensors, tmp_path / f'model{suffix}')
  other = create(name, kind, seed=1, blurpool=blurpool)
  form, has_head = load.load(path, other, encoder=name)
  assert has_head and str(form) == said
  assert_same(model, other)
  # And again, from what was read.
  chex.assert_trees_all_equal(arrays.to_torch(other, style), tensors)


@pytest.mark.parametrize(
  'name, expected',
  [
    # Of torchvision 0.29 and timm 1.0.31: every key and shape, without buffers.
    ('resnet18', '2bb53b15765c4651'),
    ('resnet50', 'cf11dad974eadeaa'),
    ('convnext_tiny', 'b07384a3160b01d8'),
    ('vit_b16', '6e116342a243f50b'),
  ],
)
def test_names_are_those_of_the_libraries(name, expected):
  model = nnx.eval_shape(
    lambda: built(
      name,
      'fixed',
      dims=(models.num_features(name),),
      num_classes=1000,
      image_size=224,
    )
  )
  heads = names.FAMILIES[names.family_of(model.encoder)].heads
  slots = arrays.encoder_slots(model.encoder, 'timm')
  slots |= arrays.head_slots(model.head, heads['timm'], nested=False)
  lines = sorted(f'{key} {slot.shape}' for key, slot in slots.items())
  digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()
  assert digest[:16] == expected, lines[:5]


def test_transformers_models_as_they_are_in_memory_and_saved(tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  transformers = pytest.importorskip('transformers')
  config = transformers.ViTConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=8,
    patch_size=4,
  )
  # With a pooling layer that no classifier reads, and without classifier.
  theirs = transformers.ViTModel(config)
  theirs.save_pretrained(tmp_path)
  torch.save(theirs.state_dict(), tmp_path / 'memory.pt')
  first, second = create('vit'), create('vit')
  for path, model in (('model.safetensors', first), ('memory.pt', second)):
    form, has_head = load.load(tmp_path / path, model, encoder='vit')
    assert form.classifier is None and not has_head
    assert form.image_size == 8
  assert_same(first, second)
  kernel = first.encoder.blocks[1].qkv.kernel[...]
  weight = theirs.layers[1].attention.k_proj.weight.detach().numpy()
  np.testing.assert_array_equal(kernel[:, 16:32], weight.T)


@pytest.mark.parametrize('wrap', ['module.', '_orig_mod.', 'module._orig_mod.'])
def test_wrappers_before_every_key(wrap, tmp_path):
  model = randomised()
  tensors = arrays.to_torch(model, 'timm')
  tensors = {wrap + key: x for key, x in tensors.items()}
  path = saved(tensors, tmp_path / 'model.safetensors')
  other = create(seed=1)
  load.load(path, other, encoder='resnet')
  assert_same(model, other)


def test_a_training_scripts_dict_and_half_precision(tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  model = randomised()
  tensors = {
    key: torch.from_numpy(x.copy()).half()
    for key, x in arrays.to_torch(model, 'timm').items()
  }
  torch.save({'state_dict': tensors, 'epoch': 3}, tmp_path / 'model.pth')
  # Files of before PyTorch 1.6.
  torch.save(
    tensors, tmp_path / 'old.pth', _use_new_zipfile_serialization=False
  )
  for path in ('model.pth', 'old.pth'):
    other = create(seed=1)
    load.load(tmp_path / path, other, encoder='resnet')
    kernel = other.head.kernel[...]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(
      kernel, model.head.kernel[...].astype(np.float16)
    )


def test_safetensors_need_no_torch(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'torch', None)
  tensors = arrays.to_torch(randomised(), 'timm')
  path = saved(tensors, tmp_path / 'model.safetensors')
  load.load(path, create(), encoder='resnet')
  path.rename(tmp_path / 'model.pt')
  with pytest.raises(ValueError, match=r'needs PyTorch .*safetensors does not'):
    load.load(tmp_path / 'model.pt', create(), encoder='resnet')


@pytest.mark.parametrize(
  'kind, changes',
  [
    ('mrl', {'num_classes': 6}),
    ('mrl', {'dims': (4, 6, 16)}),  # As many rows, of other heads.
    ('mrl_e', {}),
    ('fixed', {'dims': (16,)}),
  ],
)
def test_other_heads_stay_fresh(kind, changes, tmp_path):
  tensors = arrays.to_torch(randomised(kind='mrl'), 'timm')
  path = saved(tensors, tmp_path / 'model.safetensors')
  model, fresh = (create(kind=kind, seed=1, **changes) for _ in range(2))
  _, has_head = load.load(path, model, encoder='resnet')
  assert not has_head
  assert_same(model.head, fresh.head)


class Hostile:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('how', ['pickle', 'torch', 'torch old', 'inside'])
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(how, tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  marker, path = tmp_path / 'marker', tmp_path / 'hostile.pt'
  hostile = Hostile(marker)
  if how == 'pickle':
    path.write_bytes(pickle.dumps(hostile))
  elif how == 'inside':
    torch.save({'conv1.weight': torch.zeros(2), 'extra': hostile}, path)
  else:
    torch.save(hostile, path, _use_new_zipfile_serialization=how == 'torch')
  with pytest.raises(ValueError, match=r'hostile\.pt is refused, and nothing'):
    load.load(path, create(), encoder='resnet')
  assert not marker.exists()
  # What a plain unpickle would have done.
  if how == 'pickle':
    pickle.loads(path.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.999])
def test_a_truncated_file(suffix, share, tmp_path):
  tensors = arrays.to_torch(randomised(), 'timm')
  path = saved(tensors, tmp_path / f'model{suffix}')
  content = path.read_bytes()
  path.write_bytes(content[: int(share * len(content))])
  with pytest.raises(ValueError, match=r'model\.\w+ is .*(damaged|cut short)'):
    load.load(path, create(), encoder='resnet')


def changed(tmp_path, change, name='resnet', style='timm', **kwargs):
  tensors = arrays.to_torch(randomised(name, **kwargs), style)
  change(tensors)
  return saved(tensors, tmp_path / 'model.safetensors')


def test_a_shape_that_differs(tmp_path):
  def change(tensors):
    tensors['layer2.1.conv1.weight'] = np.zeros((32, 31, 3, 3), np.float32)

  path = changed(tmp_path, change)
  with pytest.raises(
    ValueError,
    match=r'layer2.1.conv1.weight has shape \(32, 31, 3, 3\) there, and must '
    r'have \(32, 32, 3, 3\)',
  ):
    load.load(path, create(), encoder='resnet')


def test_positions_of_another_size(tmp_path):
  path = changed(tmp_path, lambda tensors: None, 'vit')
  with pytest.raises(ValueError, match=r'\(1, 5, 16\) there.* \(1, 17, 16\)'):
    load.load(path, create('vit', image_size=16), encoder='vit')


def test_keys_left_over_and_parameters_left_unfilled(tmp_path):
  def change(tensors):
    tensors['layer1.0.se.weight'] = np.zeros(3, np.float32)
    tensors['layer2.1.bn7.weight'] = tensors.pop('layer2.1.bn2.weight')

  path = changed(tmp_path, change)
  with pytest.raises(
    ValueError,
    match=r'Left over in the file: layer1.0.se.weight, layer2.1.bn7.weight. '
    r'Left unfilled here, with the key that is missing: layer2.1.bn2.scale '
    r'\(layer2.1.bn2.weight\)',
  ):
    load.load(path, create(), encoder='resnet')


def test_a_head_of_which_a_part_is_missing(tmp_path):
  path = changed(
    tmp_path, lambda tensors: tensors.pop('fc.nesting_classifier_1.bias')
  )
  with pytest.raises(ValueError, match=r'bias \(fc.nesting_classifier_1.bias'):
    load.load(path, create(), encoder='resnet')


@pytest.mark.parametrize(
  'name, style, looks',
  [
    ('vit', 'huggingface', r"Hugging Face's vit: needs --config.encoder=vit"),
    ('convnext', 'timm', r"timm's convnext: needs --config.encoder=convnext"),
    ('bottleneck', 'timm', r"RAIVNLab's bottleneck: needs"),
  ],
)
def test_another_architecture_that_is_known(name, style, looks, tmp_path):
  path = changed(tmp_path, lambda tensors: None, name, style)
  with pytest.raises(ValueError, match=f'looks like {looks}.* here it is resn'):
    load.load(path, create(), encoder='resnet')


@pytest.mark.parametrize(
  'keys, looks',
  [
    (('patch_embed.proj.weight', 'layers.0.relative_position_bias_table', 'a'),
     'it looks like a Swin transformer'),
    (('features.denseblock1.denselayer1.norm1.weight',),
     'it looks like a DenseNet'),
    (('norm.weight', 'a.weight', 'b.weight', 'c.weight'),
     "nearest is timm's ViT, of which it has 1 of 4 keys"),
    (('a.weight', 'b.weight'), 'its keys are a.weight, b.weight'),
  ],
)  # fmt: skip
def test_another_architecture_that_is_none_here(keys, looks, tmp_path):
  tensors = {key: np.zeros(3, np.float32) for key in keys}
  path = saved(tensors, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=rf'no encoder known here \({looks}'):
    load.load(path, create(), encoder='resnet')


def test_depths_that_no_encoder_has(tmp_path, monkeypatch):
  path = changed(tmp_path, lambda tensors: None)
  monkeypatch.delitem(models.ENCODERS, 'resnet')
  with pytest.raises(
    ValueError, match=r"timm's ResNet of depths \(1, 2\), widths \(16, 32\)"
  ):
    load.load(path, create('bottleneck'), encoder='bottleneck')


@pytest.mark.parametrize('there', [True, False])
def test_blurpool_must_be_the_same(there, tmp_path):
  path = changed(tmp_path, lambda tensors: None, blurpool=there)
  with pytest.raises(ValueError, match=f'needs --config.blurpool={there}'):
    load.load(path, create(blurpool=not there), encoder='resnet')


def test_another_filter_than_blurpools(tmp_path):
  def change(tensors):
    tensors['layer2.0.conv1.blur_filter'] /= 2

  path = changed(tmp_path, change, blurpool=True)
  with pytest.raises(ValueError, match=r'conv1.blur_filter is not the filter'):
    load.load(path, create(blurpool=True), encoder='resnet')


@pytest.mark.parametrize(
  'content, match',
  [
    ({'optimizer': {}}, 'must hold a state dict.* a dict of optimizer'),
    ([1], 'must hold a state dict.* it holds list'),
  ],
)
def test_a_file_without_a_state_dict(content, match, tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  torch.save(content, tmp_path / 'model.pt')
  with pytest.raises(ValueError, match=match):
    load.load(tmp_path / 'model.pt', create(), encoder='resnet')


def test_no_such_file_and_no_such_style(tmp_path):
  with pytest.raises(ValueError, match=r'none\.pt: there is no such file'):
    load.open_checkpoint(tmp_path / 'none.pt')
  with pytest.raises(ValueError, match=r'none\.h5: must end in one of'):
    load.open_checkpoint(tmp_path / 'none.h5')
  with pytest.raises(ValueError, match="style 'flax': must be one of"):
    arrays.to_torch(create(), 'flax')
  with pytest.raises(
    ValueError, match='huggingface: has no names for BlurPool'
  ):
    arrays.to_torch(create(blurpool=True), 'huggingface')


def small(config):
  config.encoder, config.nesting_dims, config.eval_dims = 'resnet', (2, 32), ()
  config.image_size = config.eval_image_size = 8
  return config


def test_a_run_starts_from_a_file(config, tmp_path, capsys):
  config = small(config)
  model = randomised(dims=(2, 32), num_classes=10)
  path = saved(arrays.to_torch(model, 'timm'), tmp_path / 'model.safetensors')
  config.init_from = str(path)
  started = build.model(config, 10)
  init_from.initialise(config, started)
  assert_same(started, model)
  assert f"starts from {path} (RAIVNLab's resnet), with its heads" in (
    capsys.readouterr().out
  )


def run_command(monkeypatch, *args):
  monkeypatch.setattr(sys, 'argv', ['torch_import', *map(str, args)])
  torch_import.main()


def test_the_command_writes_what_a_run_starts_from(
  config, tmp_path, monkeypatch, capsys
):
  model = randomised(kind='mrl_e', dims=(2, 32), num_classes=10)
  path = saved(arrays.to_torch(model, 'timm'), tmp_path / 'model.safetensors')
  out = tmp_path / 'out'
  with pytest.raises(SystemExit, match=r'MRL-E.* give --nesting_dims'):
    run_command(monkeypatch, path, f'--out={out}')
  with pytest.raises(SystemExit, match=r'nesting_dims \(2, 16\): .*\(32,\)'):
    run_command(monkeypatch, path, f'--out={out}', '--nesting_dims=2,16')
  assert not out.exists()
  run_command(monkeypatch, path, f'--out={out}', '--nesting_dims=2,32')
  said = capsys.readouterr().out
  assert f"RAIVNLab's resnet: in {out}, with its heads (mrl_e at 2, 32" in said
  config = small(config)
  config.init_from, config.head = str(out), 'mrl_e'
  started = build.model(config, 10)
  init_from.initialise(config, started)
  assert_same(started, model)
  with pytest.raises(SystemExit, match='has checkpoints; give a new folder'):
    run_command(monkeypatch, path, f'--out={out}', '--nesting_dims=2,32')


def test_a_slimmable_workdir_is_refused(tmp_path):
  path = saved(
    arrays.to_torch(create(kind='mrl_e'), 'timm'),
    tmp_path / 'model.safetensors',
  )
  config = digits_slimmable.get_config()
  with pytest.raises(ValueError, match=r'digits_slimmable: .* no BatchNorms'):
    import_torch.write(path, tmp_path / 'out', config=config)
  assert not (tmp_path / 'out').exists()


def _import_killed_before_its_mark(monkeypatch, path, out, config):
  def killed(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Workdir, 'mark', killed)
    with pytest.raises(KeyboardInterrupt):
      import_torch.write(path, out, config=config)


def test_a_workdir_of_a_config_is_evaluated_as_if_trained_here(
  config, tmp_path, monkeypatch
):
  config = small(config)
  config.num_classes = 10
  # Of random parameters the logits are too large to save.
  config.modes = ('train', 'evaluate')
  model = randomised(dims=(2, 32), num_classes=10)
  path = saved(arrays.to_torch(model, 'timm'), tmp_path / 'model.safetensors')
  _import_killed_before_its_mark(monkeypatch, path, tmp_path / 'out', config)
  tensors = arrays.to_torch(model, 'timm')
  tensors['conv1.weight'] = tensors['conv1.weight'] + 1
  other = saved(tensors, tmp_path / 'other.safetensors')
  with pytest.raises(ValueError, match='has checkpoints; give a new folder'):
    import_torch.write(other, tmp_path / 'out', config=config)
  import_torch.write(path, tmp_path / 'out', config=config)
  stages.run(config, tmp_path / 'out', ('train', 'evaluate'))
  workdir = stages.open_workdir(config, tmp_path / 'out')
  assert workdir.latest_step() == 1  # Training was finished.
  assert stages.is_finished('evaluate', config, workdir)


def test_a_config_is_read_with_what_follows_the_colon(tmp_path):
  path = tmp_path / 'some.py'
  path.write_text("def get_config(x='1'):\n  return {'x': x}\n")
  assert config_lib.read(str(path)) == {'x': '1'}
  assert config_lib.read(f'{path}:2') == {'x': '2'}
  with pytest.raises(ValueError, match=r"config 'no.py': there is no such"):
    config_lib.read('no.py')
