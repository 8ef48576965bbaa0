"""Which encoder has the depths and widths of a PyTorch checkpoint."""

from collections.abc import Mapping
import dataclasses
import math
import re
from typing import Any

from mrl_jax import models
from mrl_jax.models import convnext
from mrl_jax.models import resnet
from mrl_jax.models import torch_keys
from mrl_jax.models import vit
from mrl_jax.models.torch_keys import Style

Shapes = Mapping[str, tuple[int, ...]]


def encoder_name(family: str, style: Style, known: Mapping[str, Shapes]) -> str:
  """The key of `models.ENCODERS` with the depths and widths of `known`.

  `known` is what `torch_keys.read` returns. Raises ValueError if there is none.
  """
  traits = {'ResNet': _resnet, 'ConvNeXt': _convnext, 'ViT': _vit}[family]
  found = traits(known)
  names = {
    name: variant
    for name, variant in models.ENCODERS.items()
    if isinstance(variant, torch_keys.FAMILIES[family].variant)
  }
  for name, variant in names.items():
    if found == (
      # Not told by any shape.
      dataclasses.replace(variant, num_heads=0) if family == 'ViT' else variant
    ):
      return name
  text = ', '.join(
    f'{name} {value}'
    for name, value in dataclasses.asdict(found).items()
    if name != 'num_heads'
  )
  raise ValueError(
    f"it looks like {style}'s {family} of {text}, which is none of "
    + ', '.join(names)
  )


def image_size(known: Mapping[str, Shapes]) -> int:
  """Side of the images that positions are for, pixels; 0 without positions."""
  if 'position_embedding' not in known:
    return 0
  patches = _shape(known, 'position_embedding')[1] - 1
  return math.isqrt(max(patches, 0)) * _shape(known, 'patch_embed')[-1]


def _shape(known: Mapping[str, Shapes], name: str) -> tuple[int, ...]:
  """Of the kernel of a module, or of a parameter; zeros if it is not there."""
  shapes = known.get(name, {}).values()
  return max(shapes, key=len, default=(0, 0, 0, 0))


def _depths(known: Mapping[str, Shapes], stage: str) -> tuple[int, ...]:
  """Blocks of each stage: one more than the largest number."""
  depths = {}
  for name in known:
    if match := re.match(rf'{stage}(\d+)\.(\d+)\.', name):
      s, b = map(int, match.groups())
      depths[s] = max(depths.get(s, 0), b + 1)
  return tuple(depths[s] for s in sorted(depths))


def _resnet(known: Mapping[str, Shapes]) -> Any:
  depths = _depths(known, 'layer')
  stages = range(1, len(depths) + 1)
  return resnet.Variant(
    depths,
    tuple(_shape(known, f'layer{s}.0.conv1.conv')[0] for s in stages),
    bottleneck='layer1.0.conv3.conv' in known,
    small_image=_shape(known, 'conv1.conv')[-1] == 3,
  )


def _convnext(known: Mapping[str, Shapes]) -> Any:
  depths = _depths(known, 'stage')
  stages = range(1, len(depths) + 1)
  return convnext.Variant(
    depths, tuple(_shape(known, f'stage{s}.0.norm')[0] for s in stages)
  )


def _vit(known: Mapping[str, Shapes]) -> Any:
  blocks = {int(name.split('.')[1]) for name in known if 'blocks.' in name}
  return vit.Variant(
    _shape(known, 'class_token')[-1],
    depth=max(blocks, default=-1) + 1,
    num_heads=0,
    patch=_shape(known, 'patch_embed')[-1],
  )
