"""The traits of an encoder that no array of a checkpoint shows.

A config names an encoder and may change these of it: `stem`, `num_heads`,
`pooling` and `output_stride`.
"""

from collections.abc import Collection, Mapping
import dataclasses
import re
from typing import Any

from mrl_jax.models import resnet
from mrl_jax.models import vit

# Fields of a config, at the values that leave the encoder as its name says.
OPTIONS = {'stem': '', 'num_heads': 0, 'pooling': '', 'output_stride': 0}
# Fields of a variant that change no shape and no key.
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
  """The fields of `OPTIONS` in a config."""
  return {name: config[name] for name in OPTIONS}


def unseen(variant: Any) -> tuple[str, ...]:
  """The variant's fields that a checkpoint's arrays do not show."""
  names = _UNSEEN.get(type(variant), ())
  if isinstance(variant, resnet.Variant) and not variant.bottleneck:
    return tuple(name for name in names if name != 'stride_in_1x1')
  # Where the norm follows the mean it has a name of its own.
  if isinstance(variant, vit.Variant) and variant.pool_first:
    return ('num_heads',)
  return names


def stem_fields(text: str) -> dict[str, Any]:
  """The fields of `resnet.Variant` that a config's `stem` stands for.

  The text is `7x7`, `3x3` or `deep`, then `_stride1` or `_stride2`, then
  `_pool` or `_no_pool`. Left out, a 3x3 stem has stride 1 and no max-pool, as
  for CIFAR; the others have stride 2 and a max-pool. ValueError otherwise.
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
  """The variant with these traits in place of its own; empty or 0: its own.

  Raises ValueError for a trait that the variant's family does not have, or
  cannot have so.
  """
  is_resnet = isinstance(variant, resnet.Variant)
  is_vit = isinstance(variant, vit.Variant)
  for name, value, has_it, whose in (
    ('stem', stem, is_resnet, 'ResNets'),
    ('output_stride', output_stride, is_resnet, 'ResNets'),
    ('num_heads', num_heads, is_vit, 'vision transformers'),
    # The others average, always.
    ('pooling', pooling, is_vit or pooling == 'mean', 'vision transformers'),
  ):
    if value and not has_it:
      raise ValueError(
        f'{name} {value!r}: must be left out, as it is a trait of {whose} only'
      )
  fields = stem_fields(stem) if stem else {}
  if is_vit and pooling:
    fields['pooling'] = pooling
  if num_heads:
    fields['num_heads'] = num_heads
  if output_stride:
    fields['output_stride'] = output_stride
  return dataclasses.replace(variant, **fields)


def named(variant: Any, options: Mapping[str, Any]) -> set[str]:
  """The variant's fields that options other than empty ones set."""
  fields = {name for name, value in options.items() if value}
  if 'stem' in fields:
    fields |= {'stem_stride', 'stem_pool'}
  return fields & {field.name for field in dataclasses.fields(variant)}


def find(
  variant: Any, base: str, encoders: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
  """An encoder's name, and the `OPTIONS` that make it this variant.

  `base` is the name that is preferred where no encoder is the variant as it
  stands. Raises ValueError if there is no such encoder.
  """
  for name in (base, *encoders):
    if encoders[name] == variant:
      return name, {}
  options = options_of(variant)
  for name in (base, *encoders):
    if type(encoders[name]) is type(variant):
      try:
        found = changed(encoders[name], **options)
      except ValueError:
        continue
      if found == variant:
        needed = options_of(encoders[name])
        return name, {k: v for k, v in options.items() if v != needed[k]}
  raise ValueError(f'no encoder here has {described(variant)}')


def options_of(variant: Any) -> dict[str, Any]:
  """The variant's own traits, as `OPTIONS`."""
  if isinstance(variant, resnet.Variant):
    stride = variant.output_stride
    return {'stem': stem_text(variant), 'output_stride': stride}
  if isinstance(variant, vit.Variant):
    return {'num_heads': variant.num_heads, 'pooling': variant.pooling}
  return {}


def described(variant: Any, fields: Collection[str] | None = None) -> str:
  """The unseen traits in words, all or those in `fields`."""
  names = unseen(variant)
  fields = names if fields is None else fields
  words = {
    ('stem_stride', 'stem_pool'): lambda: (
      f'a {variant.stem} stem of stride {variant.stem_stride} '
      f'{"with" if variant.stem_pool else "without"} max-pooling'
    ),
    ('stride_in_1x1',): lambda: (
      f'strides in the {"1x1" if variant.stride_in_1x1 else "3x3"} convolution'
    ),
    ('blur_activations',): lambda: (
      f'{"blurred" if variant.blur_activations else "no blurred"} activations'
    ),
    ('output_stride',): lambda: f'output stride {variant.output_stride}',
    ('num_heads',): lambda: f'{variant.num_heads} attention heads',
    ('pooling',): lambda: (
      'the class token as embedding'
      if variant.pooling == 'token'
      else "the mean of the patches' tokens as embedding"
    ),
  }
  return ', '.join(
    word()
    for group, word in words.items()
    if any(name in fields and name in names for name in group)
  )
