"""Tables of the config's fields: their types, choices and ranges."""

from collections.abc import Mapping
import math

from ml_collections import ConfigDict

from mrl_jax import nesting
from mrl_jax.data.sources import datasets
from mrl_jax.models import heads
from mrl_jax.training import optim

_CHOICES = {
  'input': ('auto', 'resident', 'stream'),
  'resize_on': ('auto', 'host', 'device'),
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
# The least value of each number, and the largest where there is one.
_RANGES = {
  'seed': (0, 2**32 - 1),
  'num_classes': (0,),
  'resident_gigabytes': (0,),
  'image_size': (1,),
  'late_image_size': (0,),
  'late_epoch': (0,),
  'flip_eval_image_size': (0,),
  'flip_eval_resize': (0,),
  'eval_resize': (0,),
  'eval_image_size': (1,),
  'shift': (0,),
  'adaptor_hidden': (1,),
  'max_damaged': (0,),
  'num_threads': (0,),
  'batch_size': (1,),
  'micro_batches': (1,),
  'num_epochs': (1,),
  'peak_epoch': (0,),
  'step_factor': (0,),
  'momentum': (0, 1),
  'weight_decay': (0,),
  'log_every_steps': (1,),
  'eval_every_epochs': (1,),
  'checkpoint_every_epochs': (1,),
  'keep_checkpoints': (1,),
  'eval_batch_size': (1,),
  'knn': (1,),
  'retrieval.k': (1,),
  'retrieval.shortlist': (1,),
  'few_shot.repeats': (1,),
  'cascade.repeats': (1,),
  'mesh.data': (0,),
  'mesh.model': (1,),
}
# Fields that hold a list, and the types of its elements. nesting_weights may
# be the name of a preset.
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
# The other fields, by type.
_TYPES = {
  str: (
    'name',
    'dataset',
    'data_dir',
    'embeddings',
    'labels',
    'train_split',
    'eval_split',
    'encoder',
    'profile',
    'superclasses',
  ),
  bool: ('fsdp', 'flip', 'blurpool', 'remat', 'slimmable', 'eval_flip'),
  int: ('granularities_per_step', *(name for name in _RANGES if '.' in name)),
  float: (
    *(name for name in _RANGES if '.' not in name),
    'learning_rate',
    'label_smoothing',
    'drop_path',
    'cascade.fit_share',
    'cascade.temperature',
  ),
}
# Fields of no one type, which stages/check.py looks at.
_ANY = ('batch_norm_group', 'init_from')


def check_present(config: ConfigDict) -> None:
  """Raises ValueError, naming them, if fields are missing."""
  typed = (name for names in _TYPES.values() for name in names)
  names = {*LISTS, *_CHOICES, *typed, *_ANY}
  missing = [name for name in sorted(names) if _value(config, name) is None]
  if missing:
    raise ValueError(
      f'config has no field {", ".join(missing)}: derive it from '
      'configs/default.py'
    )


def check_types(config: ConfigDict) -> None:
  """Raises ValueError for a field of another type; fields may be missing."""
  for kind, names in _TYPES.items():
    for name in names:
      value = _value(config, name)
      require(name, value, value is None or _is_a(value, kind), _WORDS[kind])
  for name, kinds in LISTS.items():
    value = _value(config, name)
    if value is not None:
      _check_list(name, value, kinds)


def check_values(config: ConfigDict) -> None:
  """Raises ValueError for a value that is no choice, or out of its range."""
  for name, choices in _CHOICES.items():
    require(name, config[name], config[name] in choices, f'one of {choices}')
  for name, (least, *most) in _RANGES.items():
    value = _value(config, name)
    right = f'in [{least}, {most[0]}]' if most else f'at least {least}'
    # A comparison that NaN fails.
    require(name, value, least <= value <= (most or [math.inf])[0], right)


def require(name: str, value: object, ok: bool, right: str) -> None:
  """Raises ValueError with the name and value of a field, unless `ok`."""
  if not ok:
    raise ValueError(f'{name} {value!r}: must be {right}')


def check_dims(config: ConfigDict, width: int) -> tuple[int, ...]:
  """Raises ValueError for dims or weights that an embedding cannot have.

  `width` is that of the embedding. Returns the nesting dims.
  """
  dims = nesting.validate(config.nesting_dims, width)
  nesting.validate_weights(config.nesting_weights, len(dims))
  nesting.validate_per_step(config.granularities_per_step, len(dims))
  if config.eval_dims:
    try:
      nesting.validate(config.eval_dims, dims[-1])
    except ValueError as error:
      raise ValueError(f'eval_dims: {error}') from None
  return dims


def _check_list(name: str, value: object, kinds: type | tuple) -> None:
  kinds = kinds if isinstance(kinds, tuple) else (kinds,)
  if name == 'nesting_weights' and isinstance(value, str):
    value = (value,)
  require(name, value, isinstance(value, tuple | list), 'a list')
  right = ' or '.join(_WORDS[kind] for kind in kinds)
  for element in value:
    if not any(_is_a(element, kind) for kind in kinds):
      raise ValueError(f'{name} {element!r}: must be {right}')


def _value(config: ConfigDict, name: str) -> object:
  """The value of a dotted name; None if there is no such field."""
  for part in name.split('.'):
    if not isinstance(config, Mapping | ConfigDict):
      return None
    config = config.get(part)
  return config


def _is_a(value: object, kind: type) -> bool:
  kinds = (int, float) if kind is float else (kind,)
  return isinstance(value, kinds) and (kind is bool) == isinstance(value, bool)
