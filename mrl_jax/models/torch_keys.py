"""What PyTorch's checkpoints call the parameters: tables, read in both ways.

Two styles: `timm` (torchvision's names too, of ResNets, and with BlurPool those
of RAIVNLab/MRL), and `huggingface` (transformers' files).
"""

from collections.abc import Mapping
import re
from typing import Literal, NamedTuple

from flax import nnx

from mrl_jax.models import convnext
from mrl_jax.models import resnet
from mrl_jax.models import vit

Style = Literal['timm', 'huggingface']
STYLES = ('timm', 'huggingface')

# A module or parameter here, in timm, and in transformers; where there are
# several, ours is made of them, side by side. Numbers: s of a stage, k of a
# layer, both from 1 here, and s0, k0 from 0; b of a block, from 0.
_STAGE = 'encoder.stages.{s0}'
_BLOCK = _STAGE + '.layers.{b}'
_VIT_BLOCK = 'encoder.layer.{b}'
_RESNET = (
  ('conv1.conv', 'conv1', 'embedder.embedder.convolution'),
  ('bn1', 'bn1', 'embedder.embedder.normalization'),
  (
    'layer{s}.{b}.conv{k}.conv',
    'layer{s}.{b}.conv{k}',
    _BLOCK + '.layer.{k0}.convolution',
  ),
  (
    'layer{s}.{b}.bn{k}',
    'layer{s}.{b}.bn{k}',
    _BLOCK + '.layer.{k0}.normalization',
  ),
  (
    'layer{s}.{b}.downsample.conv.conv',
    'layer{s}.{b}.downsample.0',
    _BLOCK + '.shortcut.convolution',
  ),
  (
    'layer{s}.{b}.downsample.norm',
    'layer{s}.{b}.downsample.1',
    _BLOCK + '.shortcut.normalization',
  ),
)
_CONVNEXT = (
  ('stem.conv', 'stem.0', 'embeddings.patch_embeddings'),
  ('stem.norm', 'stem.1', 'embeddings.layernorm'),
  (
    'downsample{s}.norm',
    'stages.{s0}.downsample.0',
    _STAGE + '.downsampling_layer.0',
  ),
  (
    'downsample{s}.conv',
    'stages.{s0}.downsample.1',
    _STAGE + '.downsampling_layer.1',
  ),
  (
    'stage{s}.{b}.depthwise',
    'stages.{s0}.blocks.{b}.conv_dw',
    _BLOCK + '.dwconv',
  ),
  ('stage{s}.{b}.norm', 'stages.{s0}.blocks.{b}.norm', _BLOCK + '.layernorm'),
  ('stage{s}.{b}.fc1', 'stages.{s0}.blocks.{b}.mlp.fc1', _BLOCK + '.pwconv1'),
  ('stage{s}.{b}.fc2', 'stages.{s0}.blocks.{b}.mlp.fc2', _BLOCK + '.pwconv2'),
  (
    'stage{s}.{b}.layer_scale',
    'stages.{s0}.blocks.{b}.gamma',
    _BLOCK + '.layer_scale_parameter',
  ),
  ('norm', 'head.norm', 'layernorm'),
)
_VIT = (
  ('class_token', 'cls_token', 'embeddings.cls_token'),
  ('position_embedding', 'pos_embed', 'embeddings.position_embeddings'),
  (
    'patch_embed',
    'patch_embed.proj',
    'embeddings.patch_embeddings.projection',
  ),
  ('blocks.{b}.norm1', 'blocks.{b}.norm1', _VIT_BLOCK + '.layernorm_before'),
  (
    'blocks.{b}.qkv',
    'blocks.{b}.attn.qkv',
    tuple(
      f'{_VIT_BLOCK}.attention.attention.{name}'
      for name in ('query', 'key', 'value')
    ),
  ),
  (
    'blocks.{b}.proj',
    'blocks.{b}.attn.proj',
    _VIT_BLOCK + '.attention.output.dense',
  ),
  ('blocks.{b}.norm2', 'blocks.{b}.norm2', _VIT_BLOCK + '.layernorm_after'),
  (
    'blocks.{b}.fc1',
    'blocks.{b}.mlp.fc1',
    _VIT_BLOCK + '.intermediate.dense',
  ),
  ('blocks.{b}.fc2', 'blocks.{b}.mlp.fc2', _VIT_BLOCK + '.output.dense'),
  ('norm', 'norm', 'layernorm'),
)


class Family(NamedTuple):
  """Encoders that share a table.

  Attributes:
    encoder: their class.
    variant: that of their `VARIANTS`.
    table: their names.
    heads: the classifier's name, in each style.
    base: what Hugging Face's files put before all but the classifier.
  """

  encoder: type
  variant: type
  table: tuple
  heads: Mapping[str, str]
  base: str


FAMILIES = {
  'ResNet': Family(
    resnet.ResNet,
    resnet.Variant,
    _RESNET,
    {'timm': 'fc', 'huggingface': 'classifier.1'},
    'resnet.',
  ),
  'ConvNeXt': Family(
    convnext.ConvNeXt,
    convnext.Variant,
    _CONVNEXT,
    {'timm': 'head.fc', 'huggingface': 'classifier'},
    'convnext.',
  ),
  'ViT': Family(
    vit.ViT,
    vit.Variant,
    _VIT,
    {'timm': 'head', 'huggingface': 'classifier'},
    'vit.',
  ),
}


def family_of(encoder: nnx.Module) -> str:
  """The key of `FAMILIES` whose table the encoder's names are in."""
  return next(
    name
    for name, family in FAMILIES.items()
    if isinstance(encoder, family.encoder)
  )


def renamed(family: Family, path: str, style: Style) -> tuple[str, ...]:
  """The names there of a module or parameter here, without the last part."""
  for row in family.table:
    if match := re.fullmatch(_pattern(row[0]), path):
      numbers = match.groupdict()
      for name in ('s', 'k'):
        if name in numbers:
          numbers[f'{name}0'] = int(numbers[name]) - 1
      names = _several(row[1 + STYLES.index(style)])
      return tuple(name.format(**numbers) for name in names)
  raise KeyError(path)


def read(
  shapes: Mapping[str, tuple[int, ...]], family: Family, style: Style
) -> dict[str, dict[str, tuple[int, ...]]]:
  """The keys there that the table has, with their shapes, by the name here.

  That is the name of a module, or of a parameter that is in none.
  """
  end = r'(\.conv)?(\.(weight|bias|running_mean|running_var))?'
  patterns = [
    (re.compile(_pattern(name) + end), row[0])
    for row in family.table
    for name in _several(row[1 + STYLES.index(style)])
  ]
  found = {}
  for key, shape in shapes.items():
    for pattern, ours in patterns:
      if match := pattern.fullmatch(key):
        numbers = match.groupdict()
        for name in ('s', 'k'):
          if f'{name}0' in numbers:
            numbers[name] = int(numbers[f'{name}0']) + 1
        found.setdefault(ours.format(**numbers), {})[key] = shape
        break
  return found


def _several(name: str | tuple[str, ...]) -> tuple[str, ...]:
  return (name,) if isinstance(name, str) else name


def _pattern(template: str) -> str:
  """A template with numbers in braces, as a regular expression."""
  return re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>\\d+)', re.escape(template))
