"""Refuses a config that cannot work, before anything is read or written."""

from collections.abc import Sequence
import math

import jax
from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax.data.sources import eval_sets
from mrl_jax.interop.pytorch import load
from mrl_jax.models import geometry
from mrl_jax.models import resnet
from mrl_jax.models import slimmable
from mrl_jax.models import vit
from mrl_jax.stages import analyze
from mrl_jax.stages import build
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import fields
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages.fields import require
from mrl_jax.stages.pairs import check as pair_check
from mrl_jax.stages.text import check as text_check
from mrl_jax.training import profile
from mrl_jax.training import sharding
from mrl_jax.training import trainable
from mrl_jax.workdir import predictions
from mrl_jax.workdir import Workdir


def check(config: ConfigDict) -> None:
  """Raises ValueError with the field, its value and what it must be."""
  fields.check_present(config)
  fields.check_types(config)
  fields.check_values(config)
  rate, smoothing = config.learning_rate, config.label_smoothing
  require('learning_rate', rate, 0 < rate < math.inf, 'positive')
  require('label_smoothing', smoothing, 0 <= smoothing < 1, 'in [0, 1)')
  ok = _numbers(config.betas, 2) and all(0 <= x < 1 for x in config.betas)
  require('betas', config.betas, ok, 'two numbers in [0, 1)')
  profile.parse(config.profile)
  if config_lib.is_pairs(config):
    pair_check.check(config)
    _check_images(config)
    trainable.parse(config.trainable)
    build.optimizer(config, steps_per_epoch=2**20)
    return
  start = config.init_from
  require('init_from', start, isinstance(start, str), 'text')
  if config_lib.is_text(config):
    text_check.check(config)
    build.optimizer(config, steps_per_epoch=2**20)
    return
  _check_analysis(config)
  _check_start(config)
  if config.head == 'none':
    off = {'save': (), 'flip_eval_image_size': 0, 'slimmable': False}
    _require_off(config, off, 'head none')
  _check_vectors(config)
  _check_images(config)
  _check_encoder(config)
  _check_batch_norm(config)
  # Its rules are those of the optimizer and the schedule.
  build.optimizer(config, steps_per_epoch=2**20)
  _check_dims(config)


def check_files(
  config: ConfigDict, workdir: Workdir, modes: Sequence[str]
) -> None:
  """Opens what evaluate and analyze need, before training; or ValueError."""
  if config_lib.has_texts(config):
    return  # A training measures on the same sets, and opens them first.
  sets = 'evaluate' in modes and config.eval_sets
  groups = 'analyze' in modes and config.superclasses
  class_names = recorded.class_names(config, workdir) if sets or groups else ()
  if sets:
    inputs.open_sets(config, class_names)
  if groups:
    analyze.load_groups(config.superclasses, class_names)


def check_devices(config: ConfigDict) -> None:
  """Raises ValueError if the devices there are cannot train as configured."""
  mesh = sharding.make_mesh(**config.mesh)
  sharding.check_batch_size(config.batch_size, mesh, config.micro_batches)
  sharding.batch_norm_group(
    config.batch_norm_group, config.batch_size, mesh, config.micro_batches
  )
  platform = jax.default_backend()
  if config.loss_kernel == 'pallas' and (platform == 'cpu' or mesh.size > 1):
    # Their tiles are of one device: the compiler splits none over a mesh.
    raise ValueError(
      f"loss_kernel 'pallas' on {mesh.size} {platform} devices: "
      'must be one GPU or TPU'
    )


def _check_start(config: ConfigDict) -> None:
  patterns = trainable.parse(config.trainable)
  require(
    'init_from',
    config.init_from,
    config.init_from or not patterns,
    f'given, or all but {", ".join(patterns)} stays as it is initialised',
  )
  require(
    'init_prefix',
    config.init_prefix,
    not config.init_prefix or load.is_file(config.init_from),
    'empty without a file of PyTorch as init_from',
  )
  require(
    'trainable',
    config.trainable,
    not (config.slimmable and patterns),
    'empty with slimmable, whose narrower networks start afresh',
  )


def _check_vectors(config: ConfigDict) -> None:
  ok = (config.encoder == 'adaptor') == bool(config.embeddings)
  right = 'given, a folder or .npy file, with the encoder adaptor, and no other'
  require('embeddings', config.embeddings, ok, right)
  ok = config.embeddings or not config.labels
  require('labels', config.labels, ok, 'empty without embeddings')
  if config.embeddings:
    off = {'eval_flip': False, 'flip_eval_image_size': 0}
    _require_off(config, off, 'embeddings, which have no mirror images')


def _require_off(config: ConfigDict, off: dict, why: str) -> None:
  for name, value in off.items():
    require(name, config[name], config[name] == value, f'{value} with {why}')


def _check_images(config: ConfigDict) -> None:
  for name in ('mean', 'std'):
    value = config[name]
    ok = _numbers(value, 3) and (name == 'mean' or min(value) > 0)
    right = 'three numbers' + (' above 0' if name == 'std' else '')
    require(name, value, ok, right)
  scale = config.crop_scale
  ok = _numbers(scale, 2) and 0 < scale[0] <= scale[1] <= 1
  require('crop_scale', scale, ok, 'two numbers, 0 < first <= second <= 1')
  for prefix in ('', 'flip_'):
    size = config[f'{prefix}eval_image_size']
    name = f'{prefix}eval_resize'
    ok = not 0 < config[name] < size
    right = f'0 or at least {prefix}eval_image_size={size}'
    require(name, config[name], ok, right)
  if config.late_image_size:
    right = "'stream' or 'auto' with late_image_size"
    require('input', config.input, config.input != 'resident', right)
    require('late_epoch', config.late_epoch, config.late_epoch > 0, 'positive')


def _check_encoder(config: ConfigDict) -> None:
  if config.embeddings:
    return  # The adaptor takes no images.
  size = config.image_size
  models.validate(
    config.encoder,
    image_size=size,
    blurpool=config.blurpool,
    drop_path=config.drop_path,
    **geometry.options(config),
  )
  if isinstance(models.ENCODERS[config.encoder], vit.Variant):
    right = f"image_size={size}, the size of the transformer's positions"
    name = 'eval_image_size'
    require(name, config[name], config[name] == size, right)
    for name in ('late_image_size', 'flip_eval_image_size'):
      require(name, config[name], config[name] in (0, size), f'0 or {right}')


def _check_batch_norm(config: ConfigDict) -> None:
  name, group = 'batch_norm_group', config.batch_norm_group
  is_count = isinstance(group, int) and not isinstance(group, bool)
  right = "a number of examples, 'device', or 0 for the whole batch"
  require(name, group, group == 'device' or (is_count and group >= 0), right)
  variant = models.ENCODERS.get(config.encoder)
  ok = not group or isinstance(variant, resnet.Variant)
  require(name, group, ok, f'0 for {config.encoder}, which has no BatchNorm')
  if is_count and group:
    size = config.batch_size // config.micro_batches
    right = f'a divisor of the {size} examples of a batch, or of its part'
    require(name, group, size % group == 0, right)


def _check_analysis(config: ConfigDict) -> None:
  eval_sets.check(config.eval_sets)
  for kind in config.save:
    require('save', kind, kind in predictions.KINDS, f'of {predictions.KINDS}')
  for name, least in (('shots', 1), ('ways', 0)):
    value = config.few_shot[name]
    ok = all(
      isinstance(x, int) and x >= least and (least or x != 1) for x in value
    )
    right = f'whole numbers of at least {least}' + ('' if least else ', not 1')
    require(f'few_shot.{name}', value, ok, right)
  share = config.cascade.fit_share
  require('cascade.fit_share', share, 0 < share < 1, 'between 0 and 1')
  temperature = config.cascade.temperature
  ok = 0 < temperature < math.inf
  require('cascade.temperature', temperature, ok, 'positive')


def _check_dims(config: ConfigDict) -> None:
  width = config_lib.num_features(config)
  dims = fields.check_dims(config, width)
  if config.head == 'fixed' and len(dims) > 1:
    raise ValueError(f'nesting_dims {dims}: the fixed head has one width')
  if config.slimmable:
    variant = models.ENCODERS.get(config.encoder)
    slimmable.validate(variant, dims, config.head)


def _numbers(value: tuple, count: int) -> bool:
  return len(value) == count and all(
    isinstance(x, int | float) and math.isfinite(x) for x in value
  )
