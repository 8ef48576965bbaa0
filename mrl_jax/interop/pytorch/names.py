"""What PyTorch's checkpoints call the parameters: tables, read in both ways.

Three styles: `timm` (for ResNets these are torchvision's names too, and with
BlurPool those of RAIVNLab/MRL), `huggingface` (transformers' files), and
`torchvision` (its ConvNeXt and ViT).
"""

from collections.abc import Mapping
import re
from typing import Literal, NamedTuple

from flax import nnx

from mrl_jax.models import convnext
from mrl_jax.models import resnet
from mrl_jax.models import vit

Style = Literal['timm', 'huggingface', 'torchvision']
STYLES = ('timm', 'huggingface', 'torchvision')

# For each style, pairs of a module or parameter here and its name there. Where
# there are several there, ours is made of them, side by side. A name that ends
# in `_` has no dot before `weight` and `bias`. In braces are numbers: s of a
# stage and k of a layer, both from 1, b of a block, from 0, and `_COUNTS`.
_COUNTS = {
  's0': ('s', 1, -1),  # s0 = 1 * s - 1
  'k0': ('k', 1, -1),
  # torchvision numbers the stages and the downsamplings before them together.
  't': ('s', 2, -1),
  'u': ('s', 2, -2),
}
_LAYER = 'layer{s}.{b}'
_STAGE = 'encoder.stages.{s0}'
_BLOCK = _STAGE + '.layers.{b}'
_RESNET = {
  'timm': (
    ('conv1.conv', 'conv1'),
    ('bn1', 'bn1'),
    (_LAYER + '.conv{k}.conv', _LAYER + '.conv{k}'),
    (_LAYER + '.bn{k}', _LAYER + '.bn{k}'),
    (_LAYER + '.downsample.conv.conv', _LAYER + '.downsample.0'),
    (_LAYER + '.downsample.norm', _LAYER + '.downsample.1'),
    # ResNet-D: number 0 is the average pooling.
    (_LAYER + '.downsample.projection.conv.conv', _LAYER + '.downsample.1'),
    (_LAYER + '.downsample.projection.norm', _LAYER + '.downsample.2'),
    # A deep stem: numbers 2 and 5 are activations.
    ('conv1.conv1.conv', 'conv1.0'),
    ('conv1.bn1', 'conv1.1'),
    ('conv1.conv2.conv', 'conv1.3'),
    ('conv1.bn2', 'conv1.4'),
    ('conv1.conv3.conv', 'conv1.6'),
  ),
  'huggingface': (
    ('conv1.conv', 'embedder.embedder.convolution'),
    ('bn1', 'embedder.embedder.normalization'),
    (_LAYER + '.conv{k}.conv', _BLOCK + '.layer.{k0}.convolution'),
    (_LAYER + '.bn{k}', _BLOCK + '.layer.{k0}.normalization'),
    (_LAYER + '.downsample.conv.conv', _BLOCK + '.shortcut.convolution'),
    (_LAYER + '.downsample.norm', _BLOCK + '.shortcut.normalization'),
  ),
}
_CONVNEXT = {
  'timm': (
    ('stem.conv', 'stem.0'),
    ('stem.norm', 'stem.1'),
    ('downsample{s}.norm', 'stages.{s0}.downsample.0'),
    ('downsample{s}.conv', 'stages.{s0}.downsample.1'),
    ('stage{s}.{b}.depthwise', 'stages.{s0}.blocks.{b}.conv_dw'),
    ('stage{s}.{b}.norm', 'stages.{s0}.blocks.{b}.norm'),
    ('stage{s}.{b}.fc1', 'stages.{s0}.blocks.{b}.mlp.fc1'),
    ('stage{s}.{b}.fc2', 'stages.{s0}.blocks.{b}.mlp.fc2'),
    ('stage{s}.{b}.layer_scale', 'stages.{s0}.blocks.{b}.gamma'),
    ('norm', 'head.norm'),
  ),
  'huggingface': (
    ('stem.conv', 'embeddings.patch_embeddings'),
    ('stem.norm', 'embeddings.layernorm'),
    ('downsample{s}.norm', _STAGE + '.downsampling_layer.0'),
    ('downsample{s}.conv', _STAGE + '.downsampling_layer.1'),
    ('stage{s}.{b}.depthwise', _BLOCK + '.dwconv'),
    ('stage{s}.{b}.norm', _BLOCK + '.layernorm'),
    ('stage{s}.{b}.fc1', _BLOCK + '.pwconv1'),
    ('stage{s}.{b}.fc2', _BLOCK + '.pwconv2'),
    ('stage{s}.{b}.layer_scale', _BLOCK + '.layer_scale_parameter'),
    ('norm', 'layernorm'),
  ),
  'torchvision': (
    ('stem.conv', 'features.0.0'),
    ('stem.norm', 'features.0.1'),
    ('downsample{s}.norm', 'features.{u}.0'),
    ('downsample{s}.conv', 'features.{u}.1'),
    ('stage{s}.{b}.depthwise', 'features.{t}.{b}.block.0'),
    ('stage{s}.{b}.norm', 'features.{t}.{b}.block.2'),
    ('stage{s}.{b}.fc1', 'features.{t}.{b}.block.3'),
    ('stage{s}.{b}.fc2', 'features.{t}.{b}.block.5'),
    ('stage{s}.{b}.layer_scale', 'features.{t}.{b}.layer_scale'),
    ('norm', 'classifier.0'),
  ),
}
_VIT_LAYER = 'encoder.layer.{b}'
_VIT_BLOCK = 'encoder.layers.encoder_layer_{b}'
_VIT = {
  'timm': (
    ('class_token', 'cls_token'),
    ('position_embedding', 'pos_embed'),
    ('patch_embed', 'patch_embed.proj'),
    ('blocks.{b}.norm1', 'blocks.{b}.norm1'),
    ('blocks.{b}.qkv', 'blocks.{b}.attn.qkv'),
    ('blocks.{b}.proj', 'blocks.{b}.attn.proj'),
    ('blocks.{b}.norm2', 'blocks.{b}.norm2'),
    ('blocks.{b}.fc1', 'blocks.{b}.mlp.fc1'),
    ('blocks.{b}.fc2', 'blocks.{b}.mlp.fc2'),
    ('norm', 'norm'),
    ('fc_norm', 'fc_norm'),
  ),
  'huggingface': (
    ('class_token', 'embeddings.cls_token'),
    ('position_embedding', 'embeddings.position_embeddings'),
    ('patch_embed', 'embeddings.patch_embeddings.projection'),
    ('blocks.{b}.norm1', _VIT_LAYER + '.layernorm_before'),
    (
      'blocks.{b}.qkv',
      tuple(
        f'{_VIT_LAYER}.attention.attention.{name}'
        for name in ('query', 'key', 'value')
      ),
    ),
    ('blocks.{b}.proj', _VIT_LAYER + '.attention.output.dense'),
    ('blocks.{b}.norm2', _VIT_LAYER + '.layernorm_after'),
    ('blocks.{b}.fc1', _VIT_LAYER + '.intermediate.dense'),
    ('blocks.{b}.fc2', _VIT_LAYER + '.output.dense'),
    ('norm', 'layernorm'),
  ),
  'torchvision': (
    ('class_token', 'class_token'),
    ('position_embedding', 'encoder.pos_embedding'),
    ('patch_embed', 'conv_proj'),
    ('blocks.{b}.norm1', _VIT_BLOCK + '.ln_1'),
    ('blocks.{b}.qkv', _VIT_BLOCK + '.self_attention.in_proj_'),
    ('blocks.{b}.proj', _VIT_BLOCK + '.self_attention.out_proj'),
    ('blocks.{b}.norm2', _VIT_BLOCK + '.ln_2'),
    ('blocks.{b}.fc1', _VIT_BLOCK + '.mlp.0'),
    ('blocks.{b}.fc2', _VIT_BLOCK + '.mlp.3'),
    ('norm', 'encoder.ln'),
  ),
}


class Family(NamedTuple):
  """Encoders that share a table.

  Attributes:
    encoder: their class.
    variant: that of their `VARIANTS`.
    names: in each style, pairs of a name here and there.
    heads: the classifier's name, in each style.
    base: what Hugging Face's files put before all but the classifier.
  """

  encoder: type
  variant: type
  names: Mapping[Style, tuple]
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
    {
      'timm': 'head.fc',
      'huggingface': 'classifier',
      'torchvision': 'classifier.2',
    },
    'convnext.',
  ),
  'ViT': Family(
    vit.ViT,
    vit.Variant,
    _VIT,
    {
      'timm': 'head',
      'huggingface': 'classifier',
      'torchvision': 'heads.head',
    },
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
  """The names there of a module or parameter here, without the last part.

  Raises ValueError if the library has none for it.
  """
  for ours, theirs in family.names.get(style, ()):
    if match := re.fullmatch(_pattern(ours), path):
      numbers = {name: int(text) for name, text in match.groupdict().items()}
      for name, (of, scale, offset) in _COUNTS.items():
        if of in numbers:
          numbers[name] = scale * numbers[of] + offset
      return tuple(name.format(**numbers) for name in _several(theirs))
  raise ValueError(f'style {style}: has no name for {path}')


def read(
  shapes: Mapping[str, tuple[int, ...]], family: Family, style: Style
) -> dict[str, dict[str, tuple[int, ...]]]:
  """The keys there that the table has, with their shapes, by the name here.

  That is the name of a module, or of a parameter that is in none.
  """
  end = r'(\.conv)?(\.?(weight|bias|running_mean|running_var))?'
  patterns = [
    (re.compile(_pattern(name) + end), ours)
    for ours, theirs in family.names.get(style, ())
    for name in _several(theirs)
  ]
  found = {}
  for key, shape in shapes.items():
    for pattern, ours in patterns:
      match = pattern.fullmatch(key)
      # The norm's number belongs to the convolution in a ResNet-D.
      if not match or (len(shape) == 4 and ours.endswith('.norm')):
        continue
      numbers = {k: int(x) for k, x in match.groupdict().items()}
      for name, (of, scale, offset) in _COUNTS.items():
        if name in numbers:
          numbers[of] = (numbers[name] - offset) // scale
      found.setdefault(ours.format(**numbers), {})[key] = shape
      break
  return found


def _several(name: str | tuple[str, ...]) -> tuple[str, ...]:
  return (name,) if isinstance(name, str) else name


def _pattern(template: str) -> str:
  """A template with numbers in braces, as a regular expression."""
  return re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>\\d+)', re.escape(template))
