"""What a PyTorch checkpoint holds."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from mrl_jax.interop.pytorch import prefix as torch_prefix
from mrl_jax.interop.pytorch.model_config import Told
from mrl_jax.interop.pytorch.names import Style
from mrl_jax.models import geometry
from mrl_jax.models.heads import MatryoshkaHead

Shapes = Mapping[str, tuple[int, ...]]


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
    other: the architecture that it rather is, by keys beside the encoder's.
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
  other: str

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

  def remarks(self, variant: Any, pixels: str = '') -> list[str]:
    """Lines on what was assumed, and on what was left out.

    Args:
      variant: the geometry that is used.
      pixels: how images are prepared, where that is assumed, too.
    """
    lines = []
    assumed = [geometry.described(variant, self.untold), pixels]
    if any(assumed):
      lines.append(
        f'assumed: {", ".join(filter(None, assumed))}; no array tells, '
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


def classifier(head: Shapes, prefix: str) -> Classifier | None:
  """The classifier with these keys, all of which have the prefix."""
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
