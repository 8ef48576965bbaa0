"""Refuses a config of pictures with captions that cannot work."""

from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax.data.pairs import datasets
from mrl_jax.models import geometry
from mrl_jax.models import towers
from mrl_jax.stages.fields import check_dims
from mrl_jax.stages.fields import require
from mrl_jax.stages.pairs import build

_OBJECTIVES = ('contrastive', 'sigmoid')
_NUMBERS = {
  'width': 1,
  'text_width': 0,
  'text_depth': 0,
  'text_heads': 0,
  'vocabulary_size': 3,
  'max_tokens': 1,
}
_LISTS = ('columns', 'projections', 'frozen')
_TEXTS = ('objective', 'text', 'tokenizer')
# Fields of training on images that pairs have one value of.
_OFF = {
  'embeddings': '',
  'head': 'none',
  'slimmable': False,
  'micro_batches': 1,
  'batch_norm_group': 0,
  'flip_eval_image_size': 0,
  'init_prefix': '',
  'save': (),
}


def check(config: ConfigDict) -> None:
  """Raises ValueError with the field, its value and what it must be."""
  pairs = config.pairs
  for name in (*_NUMBERS, *_LISTS, *_TEXTS):
    if name not in pairs:
      raise ValueError(
        f'config has no field pairs.{name}: derive it from '
        'configs/emoji_clip_mrl.py'
      )
  for name, least in _NUMBERS.items():
    ok = isinstance(pairs[name], int) and pairs[name] >= least
    require(f'pairs.{name}', pairs[name], ok, f'a number of at least {least}')
  for name in _LISTS:
    ok = all(isinstance(x, str) for x in pairs[name])
    require(f'pairs.{name}', pairs[name], ok, 'a list of texts')
  ok = len(pairs.columns) == 2
  require('pairs.columns', pairs.columns, ok, 'two names')
  for name, choices in (
    ('objective', _OBJECTIVES),
    ('text', build.TEXT_ENCODERS),
  ):
    ok = pairs[name] in choices
    require(f'pairs.{name}', pairs[name], ok, f'one of {choices}')
  for name in ('projections', 'frozen'):
    ok = {*pairs[name]} <= {*towers.TOWERS}
    require(f'pairs.{name}', pairs[name], ok, f'of {towers.TOWERS}')
  start = config.init_from
  ok = isinstance(start, ConfigDict) and {*start} == {*towers.TOWERS}
  require('init_from', start, ok, f'a dict of {towers.TOWERS} for pairs')
  for name, value in _OFF.items():
    require(name, config[name], config[name] == value, f'{value!r} for pairs')
  require('input', config.input, config.input != 'resident', "'stream', 'auto'")
  on_device = config.resize_on == 'device'
  require('resize_on', config.resize_on, not on_device, "'host' or 'auto'")
  require('dataset', config.dataset, bool(config.dataset), 'given')
  for name in pairs.frozen:
    ok = bool(start[name])
    right = f'given, as the frozen {name} tower stays as it is'
    require(f'init_from.{name}', start[name], ok, right)
  datasets.check(config.eval_sets)
  _check_towers(config)


def _check_towers(config: ConfigDict) -> None:
  models.validate(
    config.encoder,
    image_size=config.image_size,
    blurpool=config.blurpool,
    drop_path=config.drop_path,
    **geometry.options(config),
  )
  found = build.widths(config)
  require(
    'pairs.projections',
    config.pairs.projections,
    found['image'] == found['text'],
    f'such that both towers have one width: images have {found["image"]} here, '
    f'and texts {found["text"]}',
  )
  check_dims(config, found['image'])
