"""Refuses a config of texts that cannot work."""

from collections.abc import Sequence
import math

from ml_collections import ConfigDict

from mrl_jax.data.text import eval_sets
from mrl_jax.stages.fields import check_dims
from mrl_jax.stages.fields import require
from mrl_jax.stages.text import datasets
from mrl_jax.stages.text import pretrained
from mrl_jax.training import text_step

ENCODERS = ('static', 'pretrained')
_NUMBERS = {
  'max_tokens': 1,
  'vocabulary_size': 3,
  'width': 1,
  'temperature': 0.0,
}
_FIELDS = {
  'objective': str,
  'columns': tuple,
  'target': (str, int),
  'score_range': tuple,
  'prompts': tuple,
  'more': tuple,
  'weights': tuple,
  'tokenizer': str,
  'max_tokens': int,
  'vocabulary_size': int,
  'width': int,
  'temperature': (float, int),
  'symmetric': bool,
  'dropout': (float, int),
  'teacher': str,
  'similarity_share': (float, int),
}


def check(config: ConfigDict) -> None:
  """Raises ValueError with the field, its value and what it must be."""
  text = config.text
  for name, kind in _FIELDS.items():
    if name not in text:
      raise ValueError(
        f'config has no field text.{name}: derive it from configs/text_mrl.py'
      )
    ok = isinstance(text[name], kind)
    require(f'text.{name}', text[name], ok, f'of type {_said(kind)}')
  name, choices = 'text.objective', text_step.OBJECTIVES
  require(name, text.objective, text.objective in choices, f'one of {choices}')
  for name, least in _NUMBERS.items():
    value = text[name]
    ok = value >= least and 0 < value < math.inf
    require(f'text.{name}', value, ok, f'positive, at least {least}')
  span = tuple(text.score_range)
  ok = len(span) == 2 and all(_is_number(x) for x in span) and span[0] < span[1]
  require('text.score_range', span, ok, 'two numbers, the lower first')
  rate = text.dropout
  require('text.dropout', rate, rate == -1 or 0 <= rate < 1, 'in [0, 1), or -1')
  share, name = text.similarity_share, 'text.similarity_share'
  require(name, share, 0 <= share <= 1, 'in [0, 1]')
  for name in ('prompts', 'more'):
    ok = all(isinstance(x, str) for x in text[name])
    require(f'text.{name}', text[name], ok, 'a list of texts')
  ok = all(_is_number(x) for x in text.weights)
  require('text.weights', text.weights, ok, 'a list of numbers')
  right = f'one of {ENCODERS} for texts'
  require('encoder', config.encoder, config.encoder in ENCODERS, right)
  is_head = text.objective == 'classification'
  right = "'none' but for classification, which needs another"
  require('head', config.head, is_head == (config.head != 'none'), right)
  require('dataset', config.dataset, bool(config.dataset), 'given')
  for entry in datasets.entries(config):
    ok = bool(entry.teacher) or entry.objective != 'distillation'
    require('text.teacher', entry.teacher, ok, 'given for distillation')
  eval_sets.check(config.eval_sets)
  _check_dims(config)


def _check_dims(config: ConfigDict) -> None:
  dims = check_dims(config, _width(config))
  odd = [dim for dim in dims if dim % 2]
  ok = datasets.of_scores(config) != 'angle' or not odd
  require('nesting_dims', dims, ok, 'even for the objective angle')


def _width(config: ConfigDict) -> int:
  if config.encoder == 'static':
    return config.text.width
  name = 'init_from'
  require(name, config.init_from, bool(config.init_from), 'given: pretrained')
  folder = pretrained.start(config)
  most = pretrained.settings(folder).backbone.max_tokens
  name, value = 'text.max_tokens', config.text.max_tokens
  require(name, value, value <= most, f'at most {most}, as {folder} says')
  return pretrained.width(folder)


def check_modes(modes: Sequence[str], offered: Sequence[str]) -> None:
  """Raises ValueError for a stage that texts do not have."""
  for mode in modes:
    if mode not in offered:
      raise ValueError(f'stage {mode!r}: for texts one of {tuple(offered)}')


def _is_number(value: object) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


def _said(kind) -> str:
  kinds = kind if isinstance(kind, tuple) else (kind,)
  return ' or '.join('list' if x is tuple else x.__name__ for x in kinds)
