"""Traits of an encoder that a config may change.

A config names an encoder, and may change its `stem`, `num_heads`, `pooling` and
`output_stride`. Most of these no array of a checkpoint shows.
"""

from collections.abc import Collection, Mapping
import dataclasses
import re
from typing import Any

from mrl_jax.models import resnet
from mrl_jax.models import vit

# Fields of a config, with the values that leave an encoder unchanged.
OPTIONS = {'stem': '', 'num_heads': 0, 'pooling': '', 'output_stride': 0}
# Fields of a variant that change no shape and no name of a parameter.
_UNSEEN = {
  resnet.Variant: (
    'stem_stride',
    'stem_pool',
    'stride_in_1x1',
    'blur_activations',
    'output_stride',
  ),
  vit.Variant: ('num_heads', 'pooling'),
}
_STEM = re.compile(r'(7x7|3x3|deep)(?:_stride([12]))?(?:_(pool|no_pool))?')


def options(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config's values of `OPTIONS`."""
  return {name: config[name] for name in OPTIONS}


def unseen(variant: Any) -> tuple[str, ...]:
  """The variant's fields that a checkpoint's arrays do not show."""
  names = _UNSEEN.get(type(variant), ())
  if isinstance(variant, resnet.Variant) and not variant.bottleneck:
    return tuple(name for name in names if name != 'stride_in_1x1')
  # A norm after the mean, or attention, has names of its own that show it.
  if isinstance(variant, vit.Variant) and variant.pooling in (
    'mean_then_norm',
    'attention',
  ):
    return ('num_heads',)
  return names


def stem_fields(text: str) -> dict[str, Any]:
  """The fields of `resnet.Variant` that a config's `stem` sets.

  The text is `7x7`, `3x3` or `deep`, then `_stride1` or `_stride2`, then
  `_pool` or `_no_pool`. Without them a 3x3 stem has stride 1 and no max-pool,
  as for CIFAR; the others have stride 2 and a max-pool. Raises ValueError for
  another text.
  """
  match = _STEM.fullmatch(text)
  if not match:
    raise ValueError(
      f'stem {text!r}: must be 7x7, 3x3 or deep, then _stride1 or _stride2, '
      'then _pool or _no_pool, which may be left out, as in 7x7_stride1_pool'
    )
  stem, stride, pool = match.groups()
  is_small = stem == '3x3'
  return {
    'stem': stem,
    'stem_stride': int(stride) if stride else 1 if is_small else 2,
    'stem_pool': pool == 'pool' if pool else not is_small,
  }


def stem_text(variant: resnet.Variant) -> str:
  """The text for which `stem_fields` gives this variant's stem."""
  pool = 'pool' if variant.stem_pool else 'no_pool'
  return f'{variant.stem}_stride{variant.stem_stride}_{pool}'


def changed(
  variant: Any,
  *,
  stem: str = '',
  num_heads: int = 0,
  pooling: str = '',
  output_stride: int = 0,
) -> Any:
  """The variant with the traits that are not empty or 0.

  Raises ValueError for a trait that the variant's family does not have, or
  cannot have so.
  """
  is_resnet = isinstance(variant, resnet.Variant)
  is_vit = isinstance(variant, vit.Variant)
  for name, value, has_it, whose in (
    ('stem', stem, is_resnet, 'ResNets'),
    ('output_stride', output_stride, is_resnet, 'ResNets'),
    ('num_heads', num_heads, is_vit, 'vision transformers'),
    # Other encoders always average.
    ('pooling', pooling, is_vit or pooling == 'mean', 'vision transformers'),
  ):
    if value and not has_it:
      raise ValueError(
        f'{name} {value!r}: must be left out, as it is a trait of {whose} only'
      )
  fields = {'num_heads': num_heads, 'output_stride': output_stride}
  fields |= {'pooling': pooling if is_vit else ''}
  fields = {name: value for name, value in fields.items() if value}
  stem_ = stem_fields(stem) if stem else {}
  return dataclasses.replace(variant, **stem_, **fields)


def fields_set(options: Mapping[str, Any]) -> set[str]:
  """The fields of a variant that these `OPTIONS` set."""
  fields = {name for name, value in options.items() if value}
  return fields | ({'stem_stride', 'stem_pool'} if 'stem' in fields else set())


def find(
  variant: Any, base: str, encoders: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
  """Finds the name and the `OPTIONS` of a geometry among these encoders.

  Where none has it without options, the name `base` is preferred. Raises
  ValueError if no encoder can be changed to this geometry.
  """
  for name in (base, *encoders):
    if encoders[name] == variant:
      return name, {}
  options = _options_of(variant)
  for name in (base, *encoders):
    encoder = encoders[name]
    if type(encoder) is type(variant) and _can_be(encoder, variant, options):
      present = _options_of(encoder)
      return name, {k: v for k, v in options.items() if v != present[k]}
  raise ValueError(f'no encoder here has {described(variant)}')


def _can_be(encoder: Any, variant: Any, options: Mapping[str, Any]) -> bool:
  try:
    return changed(encoder, **options) == variant
  except ValueError:
    return False


def _options_of(variant: Any) -> dict[str, Any]:
  """The variant's own traits, as `OPTIONS`."""
  if isinstance(variant, resnet.Variant):
    stride = variant.output_stride
    return {'stem': stem_text(variant), 'output_stride': stride}
  if isinstance(variant, vit.Variant):
    return {'num_heads': variant.num_heads, 'pooling': variant.pooling}
  return {}


def described(variant: Any, fields: Collection[str] | None = None) -> str:
  """The traits that no array shows, in words: all, or those in `fields`."""
  names = unseen(variant) if fields is None else fields
  return ', '.join(dict.fromkeys(_words(variant, name) for name in names))


def _words(variant: Any, field: str) -> str:
  value = getattr(variant, field)
  match field:
    case 'stem_stride' | 'stem_pool':
      pool = 'with' if variant.stem_pool else 'without'
      stem = f'a {variant.stem} stem of stride {variant.stem_stride}'
      return f'{stem} {pool} max-pooling'
    case 'stride_in_1x1':
      return f'strides in the {"1x1" if value else "3x3"} convolution'
    case 'blur_activations':
      return f'{"blurred" if value else "no blurred"} activations'
    case 'output_stride':
      return f'output stride {value}'
    case 'num_heads':
      return f'{value} attention heads'
  if value == 'token':
    return 'the class token as embedding'
  if value == 'attention':
    return 'pooling by attention as embedding'
  return "the mean of the patches' tokens as embedding"
