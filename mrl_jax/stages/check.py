"""Refuses a config that cannot work, before anything is read or written."""

from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax import optim
from mrl_jax.models import heads

_CHOICES = {
  'input': ('auto', 'resident', 'stream'),
  'augmentation': ('random_resized_crop', 'shift', 'none'),
  'dtype': ('float32', 'bfloat16'),
  'head': heads.KINDS,
  'schedule': optim.SCHEDULES,
  'decay_mask': optim.DECAY_MASKS,
  'checkpoint': ('last', 'best'),
}
_AT_LEAST_ONE = (
  'image_size',
  'eval_image_size',
  'batch_size',
  'num_epochs',
  'log_every_steps',
  'eval_every_epochs',
  'checkpoint_every_epochs',
  'keep_checkpoints',
  'eval_batch_size',
)


def check(config: ConfigDict) -> None:
  """Raises ValueError naming the field, its value and what would be right."""
  for name, choices in _CHOICES.items():
    if config[name] not in choices:
      raise ValueError(f'{name} {config[name]!r}: must be one of {choices}')
  for name in _AT_LEAST_ONE:
    if config[name] < 1:
      raise ValueError(f'{name} {config[name]}: must be at least 1')
  for name in ('k', 'shortlist'):
    if config.retrieval[name] < 1:
      value = config.retrieval[name]
      raise ValueError(f'retrieval.{name} {value}: must be at least 1')
  if not 0 <= config.label_smoothing < 1:
    raise ValueError(
      f'label_smoothing {config.label_smoothing}: must be in [0, 1)'
    )
  if not config.learning_rate > 0:
    raise ValueError(f'learning_rate {config.learning_rate}: must be positive')
  width = models.num_features(config.encoder)
  dims = nesting.validate(config.nesting_dims, width)
  if config.head == 'fixed' and len(dims) > 1:
    raise ValueError(f'nesting_dims {dims}: the fixed head has one width')
  nesting.validate_weights(config.nesting_weights, len(dims))
  if config.eval_dims:
    try:
      nesting.validate(config.eval_dims, dims[-1])
    except ValueError as error:
      raise ValueError(f'eval_dims: {error}') from None
  if 0 < config.eval_resize < config.eval_image_size:
    raise ValueError(
      f'eval_resize {config.eval_resize}: must be 0 or at least '
      f'eval_image_size={config.eval_image_size}'
    )
