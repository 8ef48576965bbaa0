"""Finds the encoder with the depths and widths of a PyTorch checkpoint."""

from collections.abc import Mapping
import math
import re
from typing import Any

from mrl_jax import models
from mrl_jax.interop.pytorch import names
from mrl_jax.interop.pytorch.names import Style

Shapes = Mapping[str, tuple[int, ...]]


def encoder_name(family: str, style: Style, known: Mapping[str, Shapes]) -> str:
  """Name of the first of `models.ENCODERS` with the shapes of `known`.

  `known` is what `names.read` returns. Strides, attention heads and the like,
  which no shape shows, may differ from the file's. Raises ValueError if no
  encoder has these shapes.
  """
  traits = {'ResNet': _resnet, 'ConvNeXt': _convnext, 'ViT': _vit}[family]
  found = traits(known)
  encoders = {
    name: variant
    for name, variant in models.ENCODERS.items()
    if isinstance(variant, names.FAMILIES[family].variant)
  }
  for name, variant in encoders.items():
    if all(getattr(variant, trait) == x for trait, x in found.items()):
      return name
  text = ', '.join(f'{trait} {x}' for trait, x in found.items())
  raise ValueError(
    f"it looks like {style}'s {family} of {text}, which is none of "
    + ', '.join(encoders)
  )


def image_size(known: Mapping[str, Shapes]) -> int:
  """Side in pixels of the images for the position embeddings; 0 without."""
  if 'position_embedding' not in known:
    return 0
  patches = _shape(known, 'position_embedding')[1] - 1
  return math.isqrt(max(patches, 0)) * _shape(known, 'patch_embed')[-1]


def _shape(known: Mapping[str, Shapes], name: str) -> tuple[int, ...]:
  """Shape of a parameter, or of a module's kernel; zeros if it is missing."""
  shapes = known.get(name, {}).values()
  return max(shapes, key=len, default=(0, 0, 0, 0))


def _depths(known: Mapping[str, Shapes], stage: str) -> tuple[int, ...]:
  """Number of blocks in each stage: one more than the largest index."""
  depths = {}
  for name in known:
    if match := re.match(rf'{stage}(\d+)\.(\d+)\.', name):
      s, b = map(int, match.groups())
      depths[s] = max(depths.get(s, 0), b + 1)
  return tuple(depths[s] for s in sorted(depths))


def _resnet(known: Mapping[str, Shapes]) -> dict[str, Any]:
  depths = _depths(known, 'layer')
  stages = range(1, len(depths) + 1)
  bottleneck = 'layer1.0.conv3.conv' in known
  last = 'conv3' if bottleneck else 'conv2'
  ends = [_shape(known, f'layer{s}.0.{last}.conv')[0] for s in stages]
  found = {
    'depths': depths,
    'widths': tuple(end // (4 if bottleneck else 1) for end in ends),
    'bottleneck': bottleneck,
    'stem': 'deep',
    'average_shortcut': any('.projection.' in name for name in known),
  }
  if 'conv1.conv1.conv' not in known:
    side = _shape(known, 'conv1.conv')[-1]
    found['stem'] = f'{side}x{side}'
  if bottleneck and found['widths'][0]:
    inside, per_group, *_ = _shape(known, 'layer1.0.conv2.conv')
    found['groups'] = inside // max(per_group, 1)
    found['width_per_group'] = 64 * per_group // found['widths'][0]
  return found


def _convnext(known: Mapping[str, Shapes]) -> dict[str, Any]:
  depths = _depths(known, 'stage')
  stages = range(1, len(depths) + 1)
  return {
    'depths': depths,
    'widths': tuple(_shape(known, f'stage{s}.0.norm')[0] for s in stages),
  }


def _vit(known: Mapping[str, Shapes]) -> dict[str, Any]:
  blocks = {int(name.split('.')[1]) for name in known if 'blocks.' in name}
  return {
    'width': _shape(known, 'class_token')[-1],
    'depth': max(blocks, default=-1) + 1,
    'patch': _shape(known, 'patch_embed')[-1],
  }
