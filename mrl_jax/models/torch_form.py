"""Which model a PyTorch checkpoint is of, recognised from its keys."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import re
from typing import Any

from mrl_jax import models
from mrl_jax.models import geometry
from mrl_jax.models import torch_keys
from mrl_jax.models import torch_marks
from mrl_jax.models import torch_prefix
from mrl_jax.models import torch_variant
from mrl_jax.models.heads import MatryoshkaHead
from mrl_jax.models.torch_config import Told
from mrl_jax.models.torch_keys import Style

Shapes = Mapping[str, tuple[int, ...]]

# Parts of other people's training beside an encoder, which it does not need.
_BESIDE = re.compile(
  r'(projection_head|projector|prototypes|predictor|queue|queue_ptr|center|'
  r'mask_token|decoder_\w+)(\.|$)'
)
# Encoders of contrastive learning, whose `fc` projects and does not classify.
_PROJECTS = re.compile(r'(^|\.)(encoder_[qk]|base_encoder|momentum_encoder)\.$')
# Heads of a segmentation network, whose ResNet may be dilated.
_SEGMENTS = re.compile(r'(^|\.)(aux_classifier|decode_head|classifier)\.')


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
    options: the fields of `geometry.OPTIONS` that make it this encoder.
    variant: its geometry, with `options`.
    untold: fields of `variant` that neither the file nor a config.json tells.
    family: the key of `torch_keys.FAMILIES`.
    style: whose names it has.
    blurpool: whether it blurs before strided convolutions.
    image_size: side of the images that positions are for, pixels; 0: any.
    keys: the encoder's keys in the file, by those of the style.
    head_keys: the classifier's, likewise.
    ignored: keys of what is not needed.
    classifier: None if there is none.
    prefix: what precedes all keys of the encoder in the file.
    left_out: parts of the file that do not belong to the model.
    told: what a config.json beside the file says; None without one.
  """

  encoder: str
  options: Mapping[str, Any]
  variant: Any
  untold: tuple[str, ...]
  family: str
  style: Style
  blurpool: bool
  image_size: int
  keys: Mapping[str, str]
  head_keys: Mapping[str, str]
  ignored: tuple[str, ...]
  classifier: Classifier | None
  prefix: str
  left_out: tuple[str, ...]
  told: Told | None

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

  def fits(self, variant: Any) -> bool:
    """Whether the file may hold a network of this geometry."""
    if type(variant) is not type(self.variant):
      return False
    chosen = {name: getattr(variant, name) for name in self.untold}
    return dataclasses.replace(self.variant, **chosen) == variant

  def needs(self) -> str:
    """The flags of a command that give a config this encoder."""
    fields = {'encoder': self.encoder, **self.options}
    return ' '.join(f'--config.{name}={x}' for name, x in fields.items())

  def remarks(self, variant: Any) -> list[str]:
    """Lines on what was assumed of this geometry, and on what was left out."""
    lines = []
    if self.untold:
      lines.append(
        f'assumed: {geometry.described(variant, self.untold)}; no array tells, '
        + ('nor does config.json' if self.told else 'no config.json is there')
      )
    if self.told:
      lines += [f'{self.told.source}: {note}' for note in self.told.notes]
    if self.prefix:
      lines.append(f'the prefix {self.prefix} of its keys is left away')
    if self.left_out:
      parts = torch_prefix.listed(self.left_out)
      lines.append(f'not of the model, and left out: {parts}')
    return lines

  def differing(self, config: Mapping[str, Any]) -> list[str]:
    """Lines on how config.json prepares images, where the config does not."""
    told = self.told.image if self.told else {}
    return [
      f'config.json says {name} {value}, this config {config[name]}'
      for name, value in told.items()
      if name in config and _plain(config[name]) != value
    ]


def _plain(value: Any) -> Any:
  return value if isinstance(value, int) else tuple(value)


def recognise(
  shapes: Shapes,
  *,
  prefix: str = '',
  told: Told | None = None,
  given: Mapping[str, Any] | None = None,
) -> Form:
  """The form of a state dict with tensors of these shapes.

  Args:
    shapes: by the keys of the file.
    prefix: of the network's keys, where the file has several networks.
    told: what a config.json beside the file says.
    given: the `geometry.OPTIONS` that the user has named.

  Raises:
    ValueError: it is of no encoder here, saying what it looks like, or
      contradicts `told` or `given`.
  """
  network = torch_prefix.find(shapes, prefix)
  family, style = torch_keys.FAMILIES[network.family], network.style
  raw = network.raw
  head_keys, head = _head(network, shapes)
  # What no number of the model depends on: the running count of batches, the
  # fixed filter, the layer behind the class token that no classifier reads,
  # and parts of the training.
  ignored = {
    key
    for key in raw
    if key.endswith(('.num_batches_tracked', '.blur_filter'))
    or key.startswith('pooler.')
    or _BESIDE.match(key)
  }
  keys = {
    key: name
    for key, name in raw.items()
    if key not in ignored and name not in head_keys.values()
  }
  _refuse_others(network, keys.values())
  encoder, options, variant, untold = _geometry(network, told, given or {})
  used = {*raw.values(), *head_keys.values()}
  outside = [key for key in shapes if key not in used]
  if 'output_stride' in untold:
    _refuse_dilated(outside, shapes)
  classifier = _classifier(head, family.heads[style] + '.')
  if _PROJECTS.search(network.prefix):
    classifier = None
  image_size = torch_variant.image_size(network.known)
  if told:
    told.check_sizes(classifier and classifier.num_classes, image_size)
  beside = [raw[key] for key in raw if _BESIDE.match(key)]
  if classifier is None:
    beside += head_keys.values()
  return Form(
    encoder=encoder,
    options=options,
    variant=variant,
    untold=untold,
    family=network.family,
    style=style,
    blurpool=any(key.endswith('.blur_filter') for key in raw),
    image_size=image_size,
    keys=keys,
    head_keys=head_keys,
    ignored=tuple(raw[key] for key in raw if key in ignored),
    classifier=classifier,
    prefix=_outer(network),
    left_out=_parts([*outside, *beside], network.prefix),
    told=told,
  )


def _refuse_others(network: torch_prefix.Network, keys: Iterable[str]) -> None:
  table = network.keys()
  architecture = torch_marks.architecture(
    key for key in keys if key not in table
  )
  if architecture:
    raise ValueError(
      f'no encoder known here (it looks like {architecture}, which is not the '
      f'{network.family} that is known here)'
    )


def _refuse_dilated(outside: Sequence[str], shapes: Shapes) -> None:
  if any(_SEGMENTS.search(key) and len(shapes[key]) == 4 for key in outside):
    raise ValueError(
      'it is the ResNet of a segmentation network, in which strides are most '
      'often replaced by dilation, and no array tells: give --output_stride=8, '
      '16 or 32 (output_stride in a config)'
    )


def _geometry(
  network: torch_prefix.Network, told: Told | None, given: Mapping[str, Any]
) -> tuple[str, dict[str, Any], Any, tuple[str, ...]]:
  """The encoder's name, options and variant; and its fields no one tells."""
  known = {**network.known}
  pools_first = known.pop('fc_norm', None)
  base = torch_variant.encoder_name(network.family, network.style, known)
  variant = models.ENCODERS[base]
  if pools_first:
    variant = dataclasses.replace(variant, pooling='mean_then_norm')
  unseen = geometry.unseen(variant)
  traits = {}
  if told:
    variant = told.applied(base, variant)
    traits |= told.traits
  chosen = geometry.changed(variant, **given)
  for field in dataclasses.fields(variant):
    before, after = (getattr(x, field.name) for x in (variant, chosen))
    if before != after and (field.name in traits or field.name not in unseen):
      who = told.source if told and field.name in traits else 'the file'
      raise ValueError(
        f'{", ".join(f"{k}={x}" for k, x in given.items() if x)}: {who} says '
        f'{field.name} {before}, not {after}'
      )
  named = geometry.named(chosen, given)
  untold = tuple(x for x in unseen if x not in traits and x not in named)
  return *geometry.find(chosen, base, models.ENCODERS), chosen, untold


def _outer(network: torch_prefix.Network) -> str:
  """The prefix without the name that transformers gives its base model."""
  base = torch_keys.FAMILIES[network.family].base
  is_theirs = network.style == 'huggingface'
  return network.prefix.removesuffix(base) if is_theirs else network.prefix


def _head(
  network: torch_prefix.Network, shapes: Shapes
) -> tuple[dict[str, str], Shapes]:
  """The classifier's keys in the file, and their shapes, by its own names.

  transformers has it beside the base model, all others inside.
  """
  family = torch_keys.FAMILIES[network.family]
  start = _outer(network)
  name = family.heads[network.style]
  encoder = network.keys()
  keys = {
    key.removeprefix(start): key
    for key in shapes
    if key.startswith(f'{start}{name}.') and key not in encoder
  }
  return keys, {key: shapes[raw] for key, raw in keys.items()}


def _parts(keys: Sequence[str], prefix: str) -> tuple[str, ...]:
  """The modules that the keys are of, as far as they differ from `prefix`."""
  inside, parts = prefix.split('.'), {}
  for key in keys:
    names = key.split('.')
    shared = 0
    while (
      shared < len(names) - 1 and names[: shared + 1] == (inside[: shared + 1])
    ):
      shared += 1
    parts['.'.join(names[: shared + 1])] = None
  return tuple(parts)


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
