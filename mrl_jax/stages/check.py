"""Refuses a config that cannot work, before anything is read or written."""

from collections.abc import Mapping
import math

from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import eval_sets
from mrl_jax.interop.pytorch import load
from mrl_jax.models import geometry
from mrl_jax.models import heads
from mrl_jax.models import slimmable
from mrl_jax.models import vit
from mrl_jax.stages import build
from mrl_jax.training import optim
from mrl_jax.training import profile
from mrl_jax.training import trainable
from mrl_jax.workdir import predictions

_CHOICES = {
  'input': ('auto', 'resident', 'stream'),
  'augmentation': ('random_resized_crop', 'shift', 'none'),
  'as_seen': datasets.AS_SEEN,
  'dtype': ('float32', 'bfloat16'),
  'head': (*heads.KINDS, 'none'),
  'loss_kernel': ('xla', 'pallas'),
  'optimizer': optim.OPTIMIZERS,
  'schedule': optim.SCHEDULES,
  'decay_mask': optim.DECAY_MASKS,
  'checkpoint': ('last', 'best'),
}
# Least and largest value of each number, both allowed.
_RANGES = {
  'seed': (0, 2**32 - 1),
  'num_classes': (0, math.inf),
  'resident_gigabytes': (0, math.inf),
  'image_size': (1, math.inf),
  'late_image_size': (0, math.inf),
  'late_epoch': (0, math.inf),
  'flip_eval_image_size': (0, math.inf),
  'flip_eval_resize': (0, math.inf),
  'eval_resize': (0, math.inf),
  'eval_image_size': (1, math.inf),
  'shift': (0, math.inf),
  'adaptor_hidden': (1, math.inf),
  'max_damaged': (0, math.inf),
  'num_threads': (0, math.inf),
  'batch_size': (1, math.inf),
  'micro_batches': (1, math.inf),
  'num_epochs': (1, math.inf),
  'peak_epoch': (0, math.inf),
  'step_factor': (0, math.inf),
  'momentum': (0, 1),
  'weight_decay': (0, math.inf),
  'log_every_steps': (1, math.inf),
  'eval_every_epochs': (1, math.inf),
  'checkpoint_every_epochs': (1, math.inf),
  'keep_checkpoints': (1, math.inf),
  'eval_batch_size': (1, math.inf),
  'knn': (1, math.inf),
}


# Fields that hold a list, and what its elements are: text, whole numbers, or
# numbers. Presets of nesting_weights are text.
LISTS = {
  'modes': str,
  'crop_scale': float,
  'mean': float,
  'std': float,
  'nesting_dims': int,
  'nesting_weights': (float, str),
  'trainable': str,
  'step_epochs': float,
  'betas': float,
  'eval_dims': int,
  'eval_sets': str,
  'few_shot.shots': int,
  'few_shot.ways': int,
  'save': str,
}
_WORDS = {
  str: 'text',
  bool: 'True or False',
  int: 'whole numbers',
  float: 'numbers',
}
# The other fields, by what they are.
_KINDS = {
  str: (
    'name',
    'dataset',
    'data_dir',
    'embeddings',
    'labels',
    'train_split',
    'eval_split',
    'encoder',
    'init_from',
    'profile',
    'superclasses',
  ),
  bool: ('fsdp', 'flip', 'blurpool', 'remat', 'slimmable', 'eval_flip'),
  int: (
    'granularities_per_step',
    'retrieval.k',
    'retrieval.shortlist',
    'few_shot.repeats',
    'cascade.repeats',
    'mesh.data',
    'mesh.model',
  ),
  float: (
    *_RANGES,
    'learning_rate',
    'label_smoothing',
    'drop_path',
    'cascade.fit_share',
    'cascade.temperature',
  ),
}


def check(config: ConfigDict) -> None:
  """Raises ValueError naming the field, its value and what would be right."""
  fields(config)
  types(config)
  for name, choices in _CHOICES.items():
    _require(name, config[name], config[name] in choices, f'one of {choices}')
  for name, (least, most) in _RANGES.items():
    # A comparison that NaN fails.
    ok = least <= config[name] <= most
    limits = f'in [{least}, {most}]' if most < math.inf else f'at least {least}'
    _require(name, config[name], ok, limits)
  for group, name, least in (
    ('retrieval', 'k', 1),
    ('retrieval', 'shortlist', 1),
    ('few_shot', 'repeats', 1),
    ('cascade', 'repeats', 1),
    ('mesh', 'data', 0),
    ('mesh', 'model', 1),
  ):
    value = config[group][name]
    _require(f'{group}.{name}', value, value >= least, f'at least {least}')
  rate, smoothing = config.learning_rate, config.label_smoothing
  _require('learning_rate', rate, 0 < rate < math.inf, 'positive')
  _require('label_smoothing', smoothing, 0 <= smoothing < 1, 'in [0, 1)')
  profile.parse(config.profile)
  _check_analysis(config)
  _check_start(config)
  _check_no_head(config)
  _check_vectors(config)
  _check_images(config)
  _check_encoder(config)
  _check_schedule(config)
  _check_widths(config)


def _require(name: str, value: object, ok: bool, right: str) -> None:
  if not ok:
    raise ValueError(f'{name} {value!r}: must be {right}')


def fields(config: ConfigDict) -> None:
  """Raises ValueError for fields that are missing."""
  names = sorted(
    {*LISTS, *_CHOICES, *(n for ns in _KINDS.values() for n in ns)}
  )
  if missing := [name for name in names if _field(config, name) is None]:
    raise ValueError(
      f'config has no field {", ".join(missing)}: derive it from '
      'configs/default.py'
    )


def types(config: ConfigDict) -> None:
  """Raises ValueError for a field that is there, but of another type."""
  for kind, names in _KINDS.items():
    for name in names:
      value = _field(config, name)
      ok = value is None or _is_a(value, kind)
      _require(name, value, ok, _WORDS[kind])
  for name, kinds in LISTS.items():
    value = _field(config, name)
    if value is not None:
      _check_list(name, value, kinds)


def _check_list(name: str, value: object, kinds: type | tuple) -> None:
  kinds = kinds if isinstance(kinds, tuple) else (kinds,)
  if name == 'nesting_weights' and isinstance(value, str):
    value = (value,)
  _require(name, value, isinstance(value, tuple | list), 'a list')
  right = ' or '.join(_WORDS[kind] for kind in kinds)
  for element in value:
    if not any(_is_a(element, kind) for kind in kinds):
      raise ValueError(f'{name} {element!r}: must be {right}')


def _field(config: ConfigDict, name: str) -> object:
  """The value of a dotted name; None if there is no such field."""
  for part in name.split('.'):
    if not isinstance(config, Mapping | ConfigDict):
      return None
    config = config.get(part)
  return config


def _is_a(value: object, kind: type) -> bool:
  kinds = (int, float) if kind is float else (kind,)
  return isinstance(value, kinds) and (kind is bool) == isinstance(value, bool)


def _check_start(config: ConfigDict) -> None:
  patterns = trainable.parse(config.trainable)
  _require(
    'init_from',
    config.init_from,
    config.init_from or not patterns,
    f'given, or all but {", ".join(patterns)} stays as it is initialised',
  )
  _require(
    'init_prefix',
    config.init_prefix,
    not config.init_prefix or load.is_file(config.init_from),
    'empty without a file of PyTorch as init_from',
  )
  _require(
    'trainable',
    config.trainable,
    not (config.slimmable and patterns),
    'empty with slimmable, whose narrower networks start afresh',
  )


def _check_no_head(config: ConfigDict) -> None:
  for name, off in (
    ('save', ()),
    ('flip_eval_image_size', 0),
    ('slimmable', False),
  ):
    ok = config.head != 'none' or config[name] == off
    _require(name, config[name], ok, f'{off} with head none')


def _check_vectors(config: ConfigDict) -> None:
  ok = (config.encoder == 'adaptor') == bool(config.embeddings)
  right = 'given, a folder or .npy file, with the encoder adaptor, and no other'
  _require('embeddings', config.embeddings, ok, right)
  ok = config.embeddings or not config.labels
  _require('labels', config.labels, ok, 'empty without embeddings')
  for name, off in (('eval_flip', False), ('flip_eval_image_size', 0)):
    ok = not config.embeddings or config[name] == off
    right = f'{off} with embeddings, which have no mirror images'
    _require(name, config[name], ok, right)


def _check_images(config: ConfigDict) -> None:
  for name in ('mean', 'std'):
    value = config[name]
    ok = _numbers(value, 3) and (name == 'mean' or min(value) > 0)
    right = 'three numbers' + (' above 0' if name == 'std' else '')
    _require(name, value, ok, right)
  scale = config.crop_scale
  ok = _numbers(scale, 2) and 0 < scale[0] <= scale[1] <= 1
  _require('crop_scale', scale, ok, 'two numbers, 0 < first <= second <= 1')
  for prefix in ('', 'flip_'):
    size = config[f'{prefix}eval_image_size']
    name = f'{prefix}eval_resize'
    ok = not 0 < config[name] < size
    right = f'0 or at least {prefix}eval_image_size={size}'
    _require(name, config[name], ok, right)
  if config.late_image_size:
    right = "'stream' or 'auto' with late_image_size"
    _require('input', config.input, config.input != 'resident', right)
    _require('late_epoch', config.late_epoch, config.late_epoch > 0, 'positive')


def _check_encoder(config: ConfigDict) -> None:
  if config.embeddings:
    return  # There is one for vectors, which looks at no image.
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
    _require(name, config[name], config[name] == size, right)
    for name in ('late_image_size', 'flip_eval_image_size'):
      _require(name, config[name], config[name] in (0, size), f'0 or {right}')


def _check_analysis(config: ConfigDict) -> None:
  eval_sets.check(config.eval_sets)
  for kind in config.save:
    _require('save', kind, kind in predictions.KINDS, f'of {predictions.KINDS}')
  for name, least in (('shots', 1), ('ways', 0)):
    value = config.few_shot[name]
    ok = all(
      isinstance(x, int) and x >= least and (least or x != 1) for x in value
    )
    right = f'whole numbers of at least {least}' + ('' if least else ', not 1')
    _require(f'few_shot.{name}', value, ok, right)
  share = config.cascade.fit_share
  _require('cascade.fit_share', share, 0 < share < 1, 'between 0 and 1')
  temperature = config.cascade.temperature
  ok = 0 < temperature < math.inf
  _require('cascade.temperature', temperature, ok, 'positive')


def _check_schedule(config: ConfigDict) -> None:
  epochs = config.num_epochs
  betas = config.betas
  ok = _numbers(betas, 2) and all(0 <= beta < 1 for beta in betas)
  _require('betas', betas, ok, 'two numbers in [0, 1)')
  if config.schedule in ('cyclic', 'cosine'):
    ok = config.peak_epoch < epochs
    _require('peak_epoch', config.peak_epoch, ok, f'below num_epochs={epochs}')
  if config.schedule == 'step':
    steps = config.step_epochs
    ok = _numbers(steps, len(steps)) and list(steps) == sorted(set(steps))
    _require('step_epochs', steps, ok, 'increasing numbers')


def _check_widths(config: ConfigDict) -> None:
  width = build.num_features(config)
  dims = nesting.validate(config.nesting_dims, width)
  if config.head == 'fixed' and len(dims) > 1:
    raise ValueError(f'nesting_dims {dims}: the fixed head has one width')
  if config.slimmable:
    variant = models.ENCODERS.get(config.encoder)
    slimmable.validate(variant, dims, config.head)
  nesting.validate_weights(config.nesting_weights, len(dims))
  nesting.validate_per_step(config.granularities_per_step, len(dims))
  if config.eval_dims:
    try:
      nesting.validate(config.eval_dims, dims[-1])
    except ValueError as error:
      raise ValueError(f'eval_dims: {error}') from None


def _numbers(value: tuple, count: int) -> bool:
  return len(value) == count and all(
    isinstance(x, int | float) and math.isfinite(x) for x in value
  )
