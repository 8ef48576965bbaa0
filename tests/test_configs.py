"""Every config loads, passes the checks, and builds its model."""

import importlib
import pathlib

from flax import nnx
import jax
import numpy as np
import pytest

from configs import default
from configs import digits_mrl
from configs import digits_slimmable
from configs import finetune_resnet50_mrl
from mrl_jax import models
from mrl_jax import stages
from mrl_jax.models import resnet
from mrl_jax.stages import build
from mrl_jax.stages import check
from mrl_jax.stages import config as config_lib
from mrl_jax.stages.pairs import build as pair_build
from mrl_jax.stages.text import build as text_build

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'
NAMES = sorted(
  path.stem
  for path in CONFIGS.glob('*.py')
  if path.stem not in ('default', 'fixed_feature')
)


VECTORS = {'encoder': 'adaptor', 'embeddings': 'x'}


def write_vectors(folder):
  for split in ('train', 'val'):
    np.save(folder / f'{split}-x.npy', np.ones((3, 24), np.float32))
    np.save(folder / f'{split}-y.npy', np.arange(3))


def load(name):
  module = importlib.import_module(f'configs.{name}')
  config = (
    module.get_config('16') if name.endswith('_ff') else module.get_config()
  )
  if config.trainable:
    config.init_from = 'runs/resnet50_ff_2048'  # What its command line gives.
  return config


@pytest.mark.parametrize('name', NAMES)
def test_config_builds(name, tmp_path):
  config = load(name)
  if config.encoder == 'adaptor':
    write_vectors(tmp_path)
    config.embeddings = str(tmp_path)
  config = config_lib.resolve(config)
  if config_lib.is_pairs(config):
    check_pairs(config)
    return
  if config_lib.is_text(config):
    check_text(config, tmp_path)
    return
  check.check(config)
  model = nnx.eval_shape(lambda: build.model(config, 10))
  assert isinstance(model, models.Classifier)
  assert model.head.nesting_dims == tuple(config.nesting_dims)
  optimizer, schedule = build.optimizer(config, steps_per_epoch=100)
  assert schedule(0) >= 0
  assert config.name.startswith(name)
  assert set(config) == set(default.get_config())
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  jax.eval_shape(optimizer.init, params)


def check_text(config, tmp_path):
  """A config of texts has one field more, and may start from a folder."""
  if config.encoder == 'pretrained':
    with pytest.raises(ValueError, match="init_from '': must be given"):
      check.check(config)
    return
  check.check(config)
  workdir = stages.open_workdir(config, tmp_path / 'run')
  model = nnx.eval_shape(lambda: text_build.model(config, workdir, 100, 0))
  assert model.encoder.embedding_dim == config.nesting_dims[-1]
  assert set(config) == {*default.get_config(), 'text'}


def check_pairs(config):
  """A config of pictures with captions has one field more, too."""
  check.check(config)
  model = nnx.eval_shape(lambda: pair_build.model(config))
  assert model.nesting_dims == tuple(config.nesting_dims)
  assert set(config) == {*default.get_config(), 'pairs'}
  assert config.name


def test_the_main_configs_are_there():
  assert set(NAMES) >= {
    'digits_mrl', 'digits_mrl_e', 'digits_ff', 'cifar10_mrl', 'resnet50_mrl',
    'resnet50_mrl_e', 'resnet50_ff', 'resnet18_mrl', 'folder_mrl',
    'finetune_resnet50_mrl', 'convnext_tiny_mrl', 'vit_b16_mrl', 'text_mrl',
    'minilm_mrl', 'emoji_clip_mrl', 'clip_b16_mrl', 'siglip_b16_mrl',
    'align_mrl', 'bert_base_mrl', 'modernbert_mrl',
  }  # fmt: skip


def test_fixed_feature_configs_take_a_width():
  from configs import resnet50_ff

  config = resnet50_ff.get_config('512')
  assert config.name == 'resnet50_ff_512'
  assert (config.head, config.nesting_dims) == ('fixed', (512,))
  # A full encoder, of which the classifier reads the first features.
  model = nnx.eval_shape(lambda: build.model(config, 1000))
  assert model.encoder.num_features == 2048
  for width in ('', '0', '-8', 'x', '1.5'):
    with pytest.raises(ValueError, match=repr(width)):
      resnet50_ff.get_config(width)


def test_the_main_recipe_is_the_released_one():
  config = load('resnet50_mrl')
  assert (config.learning_rate, config.batch_size) == (0.425, 1024)
  assert (config.num_epochs, config.peak_epoch) == (40, 2.0)
  assert (config.weight_decay, config.label_smoothing) == (1e-4, 0.1)
  assert config.blurpool and config.encoder in resnet.VARIANTS
  sizes = config.image_size, config.late_image_size, config.late_epoch
  assert sizes == (160, 192, 32)
  assert (config.eval_resize, config.eval_image_size) == (256, 224)


def test_the_main_recipe_in_other_numbers_of_epochs():
  from configs import resnet50_mrl
  from configs import resnet50_mrl_large_batch

  for epochs, late in ((16, 12), (24, 19), (32, 25), (56, 45), (88, 71)):
    config = resnet50_mrl.get_config(str(epochs))
    check.check(config)
    assert (config.num_epochs, config.late_epoch) == (epochs, late)
    assert config.name == f'resnet50_mrl_{epochs}'
  config = resnet50_mrl_large_batch.get_config('16')
  assert config.name == 'resnet50_mrl_large_batch_16'
  # Linear in the batch.
  assert config.learning_rate / config.batch_size == 0.425 / 1024
  with pytest.raises(ValueError, match="epochs '17'"):
    resnet50_mrl.get_config('17')


@pytest.mark.parametrize(
  'name', ('head', 'layer4.2.conv2, layer4.2.conv3, head')
)
def test_the_papers_settings_of_fine_tuning(name):
  config = finetune_resnet50_mrl.get_config(name)
  assert tuple(config.trainable) == tuple(name.split(', '))
  assert (config.learning_rate, config.num_epochs) == (0.1, 10)
  with pytest.raises(ValueError, match=r"init_from '': must be given"):
    check.check(config)


@pytest.mark.parametrize(
  'field, value, match',
  [
    ('nesting_dims', (8, 4), '4 after 8'),
    ('nesting_dims', (0, 4), '0 is not positive'),
    ('nesting_dims', (8, 128), '128 is beyond the embedding width 64'),
    ('nesting_weights', (1.0, 2.0), '2 weights for 6'),
    ('eval_dims', (3, 65), 'eval_dims.*65'),
    ('head', 'mrle', "head 'mrle': must be one of"),
    ('head', 'fixed', 'one width'),
    ('encoder', 'resnet9', 'resnet9'),
    ('loss_kernel', 'triton', 'triton'),
    ('late_image_size', 9, 'late_epoch 0: must be positive'),
    ('flip_eval_image_size', -1, 'flip_eval_image_size -1'),
    ('mesh', {'data': -1, 'model': 1}, 'mesh.data -1'),
    ('mesh', {'data': 0, 'model': 0}, 'mesh.model 0'),
    ('profile', '3', "profile '3': must be START:STOP"),
    ('profile', '5:5', 'profile .5:5'),
    ('profile', '0:5', 'profile .0:5'),
    ('trainable', ('head,',), "trainable 'head,': must be patterns"),
    ('trainable', ('head',), "init_from '': must be given, or all but head"),
    ('optimizer', 'adam', "optimizer 'adam': must be one of"),
    ('betas', (0.9, 1.0), 'betas .*two numbers in'),
    ('drop_path', 0.1, 'drop_path 0.1: must be 0 for resnet8'),
    ('batch_norm_group', 'chip', "batch_norm_group 'chip': must be a number"),
    ('batch_norm_group', -1, 'batch_norm_group -1: must be a number'),
    ('batch_norm_group', 1.5, 'batch_norm_group 1.5: must be a number'),
    ('batch_norm_group', True, 'batch_norm_group True: must be a number'),
    ('batch_norm_group', 7, 'batch_norm_group 7: must be a divisor of the'),
    ('schedule', 'linear', 'linear'),
    ('decay_mask', 'none', 'none'),
    ('input', 'disk', 'disk'),
    ('resize_on', 'tpu', 'tpu'),
    ('augmentation', 'mixup', 'mixup'),
    ('dtype', 'float16', 'float16'),
    ('checkpoint', '12', '12'),
    ('batch_size', 0, 'batch_size 0'),
    ('num_epochs', -1, 'num_epochs -1'),
    ('log_every_steps', 0, 'log_every_steps 0'),
    ('learning_rate', 0.0, 'learning_rate 0.0'),
    ('learning_rate', float('nan'), 'learning_rate nan'),
    ('label_smoothing', 1.0, 'label_smoothing 1.0'),
    ('eval_resize', 4, 'eval_resize 4'),
    ('eval_resize', -3, 'eval_resize -3'),
    ('seed', -1, 'seed -1'),
    ('num_threads', -1, 'num_threads -1'),
    ('max_damaged', -1, 'max_damaged -1'),
    ('shift', -1, 'shift -1'),
    ('momentum', 7.0, 'momentum 7.0'),
    ('weight_decay', float('nan'), 'weight_decay nan'),
    ('resident_gigabytes', float('nan'), 'resident_gigabytes nan'),
    ('peak_epoch', 30.0, 'peak_epoch 30.0: must be below num_epochs=30'),
    ('std', (0.0, 1.0, 1.0), 'std .*above 0'),
    ('mean', (0.5,), 'mean .*three numbers'),
    ('mean', ('a', 'b', 'c'), "mean 'a': must be numbers"),
    ('crop_scale', (1.0, 0.08), 'crop_scale'),
    ('crop_scale', (1.0,), 'crop_scale'),
    ('nesting_weights', ('a',) * 6, 'nesting_weights'),
    ('nesting_weights', ('9boost',), "'9boost'.*8boost"),
    ('granularities_per_step', 1, 'granularities_per_step 1'),
    ('granularities_per_step', 7, 'granularities_per_step 7'),
    ('nesting_weights', (float('inf'),) * 6, 'nesting_weights'),
    ('save', ('logits', 'images'), "save 'images': must be of"),
    ('save', ('logits', 'images'), "save 'images': must be of"),
    ('eval_sets', ('imagenet_a', 'cifar'), "eval_sets 'cifar': must be one of"),
    ('knn', 0, 'knn 0'),
    (
      'few_shot',
      {'shots': (0,), 'ways': (0,), 'repeats': 1},
      r'few_shot.shots .0,.: must be whole numbers of at least 1',
    ),
    (
      'few_shot',
      {'shots': (1,), 'ways': (1,), 'repeats': 1},
      r'few_shot.ways .1,.: must be .* not 1',
    ),
    (
      'cascade',
      {'repeats': 0, 'fit_share': 0.5, 'temperature': 1.0},
      'cascade.repeats 0',
    ),
    (
      'cascade',
      {'repeats': 1, 'fit_share': 1.0, 'temperature': 1.0},
      'cascade.fit_share 1.0: must be between 0 and 1',
    ),
    (
      'cascade',
      {'repeats': 1, 'fit_share': 0.5, 'temperature': 0.0},
      'cascade.temperature 0.0: must be positive',
    ),
  ],
)
def test_bad_values_are_refused(field, value, match):
  config = digits_mrl.get_config()
  config[field] = value
  with pytest.raises(ValueError, match=match):
    check.check(config)


def test_widths_left_to_the_encoder():
  config = digits_mrl.get_config()
  assert config_lib.resolve(config) is config
  config.nesting_dims = ()
  assert config_lib.resolve(config).nesting_dims == (8, 16, 32, 64)
  assert config.nesting_dims == ()


@pytest.mark.parametrize(
  'fields, match',
  [
    ({'encoder': 'adaptor'}, "embeddings '': must be given"),
    ({'embeddings': 'x'}, "embeddings 'x': .* encoder adaptor"),
    ({'labels': 'y.npy'}, "labels 'y.npy': must be empty without"),
    ({'adaptor_hidden': 0}, 'adaptor_hidden 0'),
    ({**VECTORS, 'eval_flip': True}, 'eval_flip True: must be False with'),
    (
      {**VECTORS, 'flip_eval_image_size': 8},
      'flip_eval_image_size 8: must be 0 with embeddings',
    ),
  ],
)
def test_vectors_are_checked(fields, match):
  config = digits_mrl.get_config()
  config.update(fields)
  with pytest.raises(ValueError, match=match):
    check.check(config)


def test_a_slimmable_network_trains_as_a_whole():
  config = digits_slimmable.get_config()
  config.update(init_from='runs/digits_slimmable', trainable=('head',))
  with pytest.raises(ValueError, match=r"trainable \('head',\): must be empty"):
    check.check(config)


def test_step_epochs_are_checked():
  config = digits_mrl.get_config()
  config.schedule = 'step'
  check.check(config)
  for epochs in ((60, 30), ('a',), (30, 30)):
    config.step_epochs = epochs
    with pytest.raises(ValueError, match='step_epochs'):
      check.check(config)


def test_retrieval_fields_are_checked():
  config = digits_mrl.get_config()
  config.retrieval.k = 0
  with pytest.raises(ValueError, match=r'retrieval.k 0'):
    check.check(config)
