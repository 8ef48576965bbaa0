"""Which model a PyTorch checkpoint is of, recognised from its keys."""

from collections.abc import Mapping, Sequence
import dataclasses
import re

from mrl_jax.models import torch_keys
from mrl_jax.models import torch_variant
from mrl_jax.models.heads import MatryoshkaHead
from mrl_jax.models.torch_keys import Style

Shapes = Mapping[str, tuple[int, ...]]

# What DistributedDataParallel and torch.compile put before every key.
_WRAPPERS = ('module.', '_orig_mod.')
# What a transformers model calls its parts in memory, and in its files.
_IN_MEMORY = (
  (r'layers\.(\d+)\.attention\.q_proj', r'attention.attention.query'),
  (r'layers\.(\d+)\.attention\.k_proj', r'attention.attention.key'),
  (r'layers\.(\d+)\.attention\.v_proj', r'attention.attention.value'),
  (r'layers\.(\d+)\.attention\.o_proj', r'attention.output.dense'),
  (r'layers\.(\d+)\.layernorm_(before|after)', r'layernorm_\2'),
  (r'layers\.(\d+)\.mlp\.fc1', r'intermediate.dense'),
  (r'layers\.(\d+)\.mlp\.fc2', r'output.dense'),
)
# Names of torchvision's released ViTs, which are older than its own code.
_RELEASED = (
  (r'\.mlp\.linear_1\.', '.mlp.0.'),
  (r'\.mlp\.linear_2\.', '.mlp.3.'),
)
# Names that give away what cannot be imported.
_OTHERS = {
  'relative_position_bias_table': 'a Swin transformer',
  'features.denseblock1': 'a DenseNet',
  'features.0.weight': 'a VGG or AlexNet',
  'conv_head.weight': 'an EfficientNet or MobileNet',
  'features.0.0.weight': 'an EfficientNet or MobileNet',
  'dist_token': 'a distilled DeiT',
  'visual.': 'a CLIP model',
}


@dataclasses.dataclass(frozen=True)
class Classifier:
  """The classifier of a checkpoint.

  Attributes:
    widths: of the classifiers there; MRL-E has one, of the full width.
    num_classes: of each.
    nested: whether they are named as RAIVNLab's `MRL_Linear_Layer` does.
  """

  widths: tuple[int, ...]
  num_classes: int
  nested: bool

  @property
  def kind(self) -> str:
    """The head it most likely is; MRL-E of old files looks like `fixed`."""
    if not self.nested:
      return 'fixed'
    return 'mrl' if len(self.widths) > 1 else 'mrl_e'

  def fits(self, head: MatryoshkaHead) -> bool:
    if self.num_classes != head.num_classes:
      return False
    if head.kind == 'mrl':
      return self.nested and self.widths == head.nesting_dims
    plain = head.kind == 'mrl_e' or not self.nested
    return plain and self.widths == head.nesting_dims[-1:]


@dataclasses.dataclass(frozen=True)
class Form:
  """What a checkpoint holds.

  Attributes:
    encoder: the key of `models.ENCODERS`.
    family: the key of `torch_keys.FAMILIES`.
    style: whose names it has.
    blurpool: whether it blurs before strided convolutions.
    image_size: side of the images that positions are for, pixels; 0: any.
    keys: the encoder's keys in the file, by those of the style.
    head_keys: the classifier's, likewise.
    ignored: keys of what is not needed.
    classifier: None if there is none.
  """

  encoder: str
  family: str
  style: Style
  blurpool: bool
  image_size: int
  keys: Mapping[str, str]
  head_keys: Mapping[str, str]
  ignored: tuple[str, ...]
  classifier: Classifier | None

  def __str__(self) -> str:
    whose = {
      'timm': "timm's",
      'huggingface': "Hugging Face's",
      'torchvision': "torchvision's",
    }[self.style]
    nested = self.classifier is not None and self.classifier.nested
    if self.family == 'ResNet' and self.style == 'timm':
      raivnlab = self.blurpool or nested
      whose = "RAIVNLab's" if raivnlab else "torchvision's or timm's"
    blur = ' with BlurPool' if self.blurpool else ''
    return f'{whose} {self.encoder}{blur}'


def recognise(shapes: Shapes) -> Form:
  """The form of a state dict with tensors of these shapes.

  Raises ValueError if it is of no encoder here, saying what it looks like.
  """
  raw = _unwrapped(shapes)
  plain = {key: shapes[name] for key, name in raw.items()}
  candidates = [
    (family, style)
    for family in torch_keys.FAMILIES
    for style in torch_keys.FAMILIES[family].names
  ]
  # That which knows the most keys.
  counts, read = {}, {}
  for family, style in candidates:
    found = torch_keys.read(plain, torch_keys.FAMILIES[family], style)
    read[family, style] = found
    counts[family, style] = sum(map(len, found.values()))
  family, style = best = max(candidates, key=counts.get)
  known = read[best]
  prefix = torch_keys.FAMILIES[family].heads[style] + '.'
  head = {key for key in plain if key.startswith(prefix)}
  head -= {key for keys in known.values() for key in keys}
  # What no number of the model depends on: the running count of batches, the
  # fixed filter, and the layer behind the class token that no classifier reads.
  ignored = {
    key
    for key in plain
    if key.endswith(('.num_batches_tracked', '.blur_filter'))
    or key.startswith('pooler.')
  }
  if counts[best] < (len(plain) - len(ignored)) / 2:
    raise ValueError(_unknown(plain, f"{style}'s {family}", counts[best]))
  rest = plain.keys() - head - ignored
  return Form(
    encoder=torch_variant.encoder_name(family, style, known),
    family=family,
    style=style,
    blurpool=any(key.endswith('.blur_filter') for key in plain),
    image_size=torch_variant.image_size(known),
    keys={key: raw[key] for key in plain if key in rest},
    head_keys={key: raw[key] for key in plain if key in head},
    ignored=tuple(raw[key] for key in plain if key in ignored),
    classifier=_classifier({key: plain[key] for key in head}, prefix),
  )


def _unwrapped(shapes: Shapes) -> dict[str, str]:
  """The keys in the file, by what they are without wrappers and base."""
  raw = {key: key for key in shapes}
  for wrapper in _WRAPPERS * 2:
    if all(key.startswith(wrapper) for key in raw):
      raw = {key.removeprefix(wrapper): name for key, name in raw.items()}
  bases = tuple(family.base for family in torch_keys.FAMILIES.values())
  if any(key.startswith(bases) for key in raw):
    for base in bases:
      raw = {key.removeprefix(base): name for key, name in raw.items()}
  return {_as_in_files(key): name for key, name in raw.items()}


def _as_in_files(key: str) -> str:
  for pattern, name in _IN_MEMORY:
    key = re.sub(f'^{pattern}', rf'encoder.layer.\1.{name}', key)
  for pattern, name in _RELEASED:
    key = re.sub(pattern, name, key)
  return key


def _unknown(plain: Shapes, nearest: str, count: int) -> str:
  others = [
    name for mark, name in _OTHERS.items() if any(mark in key for key in plain)
  ]
  if others:
    looks = f'it looks like {others[0]}'
  elif count:
    looks = (
      f'nearest is {nearest}, of which it has {count} of {len(plain)} keys'
    )
  else:
    looks = f'its keys are {listed(plain)}'
  return (
    f'no encoder known here ({looks}); known are ResNets of torchvision, timm, '
    'transformers and RAIVNLab, ConvNeXt and ViT of timm, transformers and '
    'torchvision'
  )


def _classifier(head: Shapes, prefix: str) -> Classifier | None:
  numbered = {}
  for key, shape in head.items():
    name = key.removeprefix(prefix)
    if match := re.fullmatch(r'nesting_classifier_(\d+)\.weight', name):
      numbered[int(match[1])] = shape
  if numbered:
    shapes = [numbered[i] for i in sorted(numbered)]
    return Classifier(tuple(s[1] for s in shapes), shapes[0][0], nested=True)
  if len(shape := head.get(f'{prefix}weight', ())) == 2:
    return Classifier(shape[1:], shape[0], nested=False)
  return None


def listed(names: Sequence[str] | Shapes, most: int = 6) -> str:
  names = [*names]
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(names[:most]) + more
