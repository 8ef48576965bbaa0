"""Names of parameters here and in PyTorch's checkpoints, as tables.

There are three styles: `timm` (for ResNets also torchvision's names, and with
BlurPool those of RAIVNLab/MRL), `huggingface` (the files of transformers), and
`torchvision` (its ConvNeXt and ViT).
"""

from collections.abc import Iterator, Mapping
import re
from typing import Literal, NamedTuple

from flax import nnx

from mrl_jax.models import convnext
from mrl_jax.models import resnet
from mrl_jax.models import vit

Style = Literal['timm', 'huggingface', 'torchvision']
_STYLES = ('timm', 'huggingface', 'torchvision')

# Numbers in names: stage s and layer k count from 1, block b from 0; the others
# follow from these, as in s0 = 1 * s - 1.
_COUNTS = {
  's0': ('s', 1, -1),
  'k0': ('k', 1, -1),
  # torchvision numbers the stages and the downsamplings before them together.
  't': ('s', 2, -1),
  'u': ('s', 2, -2),
}
# Each table has a row for each module or parameter: its name here, in timm, in
# transformers, and in torchvision where that has other names than timm. Rows
# are grouped by what precedes all of their names. None stands for no name;
# several names for arrays that are concatenated here. A name that ends in `_`
# has no dot before `weight` and `bias`.
_RESNET = {
  ('', '', ''): (
    ('conv1.conv', 'conv1', 'embedder.embedder.convolution'),
    ('bn1', 'bn1', 'embedder.embedder.normalization'),
    # A deep stem: numbers 2 and 5 are activations.
    ('conv1.conv1.conv', 'conv1.0', None),
    ('conv1.bn1', 'conv1.1', None),
    ('conv1.conv2.conv', 'conv1.3', None),
    ('conv1.bn2', 'conv1.4', None),
    ('conv1.conv3.conv', 'conv1.6', None),
  ),
  ('layer{s}.{b}.', 'layer{s}.{b}.', 'encoder.stages.{s0}.layers.{b}.'): (
    ('conv{k}.conv', 'conv{k}', 'layer.{k0}.convolution'),
    ('bn{k}', 'bn{k}', 'layer.{k0}.normalization'),
    ('downsample.conv.conv', 'downsample.0', 'shortcut.convolution'),
    ('downsample.norm', 'downsample.1', 'shortcut.normalization'),
    # ResNet-D: number 0 is the average pooling.
    ('downsample.projection.conv.conv', 'downsample.1', None),
    ('downsample.projection.norm', 'downsample.2', None),
  ),
}
_CONVNEXT = {
  ('', '', '', ''): (
    ('stem.conv', 'stem.0', 'embeddings.patch_embeddings', 'features.0.0'),
    ('stem.norm', 'stem.1', 'embeddings.layernorm', 'features.0.1'),
    ('norm', 'head.norm', 'layernorm', 'classifier.0'),
  ),
  (
    'downsample{s}.',
    'stages.{s0}.downsample.',
    'encoder.stages.{s0}.downsampling_layer.',
    'features.{u}.',
  ): (('norm', '0', '0', '0'), ('conv', '1', '1', '1')),
  (
    'stage{s}.{b}.',
    'stages.{s0}.blocks.{b}.',
    'encoder.stages.{s0}.layers.{b}.',
    'features.{t}.{b}.',
  ): (
    ('depthwise', 'conv_dw', 'dwconv', 'block.0'),
    ('norm', 'norm', 'layernorm', 'block.2'),
    ('fc1', 'mlp.fc1', 'pwconv1', 'block.3'),
    ('fc2', 'mlp.fc2', 'pwconv2', 'block.5'),
    ('layer_scale', 'gamma', 'layer_scale_parameter', 'layer_scale'),
  ),
}
_QKV = tuple(f'attention.attention.{x}' for x in ('query', 'key', 'value'))
_VIT = {
  ('', '', 'embeddings.', ''): (
    ('class_token', 'cls_token', 'cls_token', 'class_token'),
    (
      'position_embedding',
      'pos_embed',
      'position_embeddings',
      'encoder.pos_embedding',
    ),
    (
      'patch_embed',
      'patch_embed.proj',
      'patch_embeddings.projection',
      'conv_proj',
    ),
  ),
  (
    'blocks.{b}.',
    'blocks.{b}.',
    'encoder.layer.{b}.',
    'encoder.layers.encoder_layer_{b}.',
  ): (
    ('norm1', 'norm1', 'layernorm_before', 'ln_1'),
    ('qkv', 'attn.qkv', _QKV, 'self_attention.in_proj_'),
    ('proj', 'attn.proj', 'attention.output.dense', 'self_attention.out_proj'),
    ('norm2', 'norm2', 'layernorm_after', 'ln_2'),
    ('fc1', 'mlp.fc1', 'intermediate.dense', 'mlp.0'),
    ('fc2', 'mlp.fc2', 'output.dense', 'mlp.3'),
  ),
  ('', '', '', ''): (
    ('norm', 'norm', 'layernorm', 'encoder.ln'),
    ('fc_norm', 'fc_norm', None, None),
  ),
}


class Family(NamedTuple):
  """A family of encoders, and its names in each style.

  Attributes:
    encoder: the class of the encoders.
    variant: the class of their geometry.
    table: names of all modules and parameters.
    heads: the classifier's name, by style; a style without it has no names.
    base: prefix of all keys but the classifier's in transformers' files.
  """

  encoder: type
  variant: type
  table: Mapping[tuple[str, ...], tuple]
  heads: Mapping[str, str]
  base: str

  def names(self, style: Style) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields names here with those of the style, which may be several."""
    column = 1 + _STYLES.index(style)
    for prefixes, rows in self.table.items():
      for row in rows:
        if (theirs := row[column]) is not None:
          several = (theirs,) if isinstance(theirs, str) else theirs
          prefix = prefixes[column]
          yield prefixes[0] + row[0], tuple(prefix + x for x in several)


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
    {'timm': 'head', 'huggingface': 'classifier', 'torchvision': 'heads.head'},
    'vit.',
  ),
}


def family_of(encoder: nnx.Module) -> str:
  """The encoder's key in `FAMILIES`."""
  return next(
    name
    for name, family in FAMILIES.items()
    if isinstance(encoder, family.encoder)
  )


def renamed(family: Family, path: str, style: Style) -> tuple[str, ...]:
  """PyTorch's names of a module or parameter, without an end like `.weight`.

  Raises ValueError if the style has no name for `path`.
  """
  for ours, theirs in family.names(style):
    if match := re.fullmatch(_pattern(ours), path):
      numbers = {name: int(text) for name, text in match.groupdict().items()}
      for name, (of, scale, offset) in _COUNTS.items():
        if of in numbers:
          numbers[name] = scale * numbers[of] + offset
      return tuple(name.format(**numbers) for name in theirs)
  raise ValueError(f'style {style}: has no name for {path}')


def read(
  shapes: Mapping[str, tuple[int, ...]], family: Family, style: Style
) -> dict[str, dict[str, tuple[int, ...]]]:
  """Finds the keys of a file that the table has.

  Returns:
    For each module or parameter here, by its name: the keys in the file that
    belong to it, and their shapes.
  """
  end = r'(\.conv)?(\.?(weight|bias|running_mean|running_var))?'
  patterns = [
    (re.compile(_pattern(name) + end), ours)
    for ours, theirs in family.names(style)
    for name in theirs
  ]
  found = {}
  for key, shape in shapes.items():
    for pattern, ours in patterns:
      match = pattern.fullmatch(key)
      # In a ResNet-D a convolution has the number that is the norm's elsewhere.
      if not match or (len(shape) == 4 and ours.endswith('.norm')):
        continue
      numbers = {k: int(x) for k, x in match.groupdict().items()}
      for name, (of, scale, offset) in _COUNTS.items():
        if name in numbers:
          numbers[of] = (numbers[name] - offset) // scale
      found.setdefault(ours.format(**numbers), {})[key] = shape
      break
  return found


def _pattern(template: str) -> str:
  """A regular expression for a template with numbers in braces."""
  return re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>\\d+)', re.escape(template))
