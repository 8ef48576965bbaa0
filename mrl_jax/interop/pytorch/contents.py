"""The contents of a PyTorch checkpoint: encoder, classifier and names."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from mrl_jax.interop.pytorch.model_config import ModelConfig
from mrl_jax.interop.pytorch.names import Style
from mrl_jax.interop.pytorch.network import listed
from mrl_jax.models import geometry
from mrl_jax.models.heads import MatryoshkaHead

Shapes = Mapping[str, tuple[int, ...]]

_WHOSE = {
  'timm': "timm's",
  'huggingface': "Hugging Face's",
  'torchvision': "torchvision's",
}


@dataclasses.dataclass(frozen=True)
class Classifier:
  """The classifier of a checkpoint.

  Attributes:
    widths: widths of its linear layers; MRL-E has one, of the full width.
    num_classes: number of classes.
    nested: whether its keys are those of RAIVNLab's `MRL_Linear_Layer`.
  """

  widths: tuple[int, ...]
  num_classes: int
  nested: bool

  @classmethod
  def read(cls, head: Shapes, prefix: str) -> 'Classifier | None':
    """Reads the shapes of a classifier, whose keys all have the prefix."""
    numbered = {}
    for key, shape in head.items():
      name = key.removeprefix(prefix)
      if match := re.fullmatch(r'nesting_classifier_(\d+)\.weight', name):
        numbered[int(match[1])] = shape
    if numbered:
      shapes = [numbered[i] for i in sorted(numbered)]
      return cls(tuple(s[1] for s in shapes), shapes[0][0], nested=True)
    if len(shape := head.get(f'{prefix}weight', ())) == 2:
      return cls(shape[1:], shape[0], nested=False)
    return None

  @property
  def kind(self) -> str:
    """The likely kind of head; MRL-E in old files looks like `fixed`."""
    if not self.nested:
      return 'fixed'
    return 'mrl' if len(self.widths) > 1 else 'mrl_e'

  def fits(self, head: MatryoshkaHead) -> bool:
    """Whether the head has the same kind, widths and number of classes."""
    if self.num_classes != head.num_classes:
      return False
    if head.kind == 'mrl':
      return self.nested and self.widths == head.nesting_dims
    plain = head.kind == 'mrl_e' or not self.nested
    return plain and self.widths == head.nesting_dims[-1:]


@dataclasses.dataclass(frozen=True)
class Contents:
  """The encoder and classifier that a checkpoint holds.

  Attributes:
    encoder: key of `models.ENCODERS`.
    options: the `geometry.OPTIONS` that make `encoder` the file's network.
    variant: the network's geometry, `options` included.
    unstated: fields of `variant` that neither the file nor a config.json
      states, and which are therefore assumed.
    family: key of `names.FAMILIES`.
    style: the library whose names the file uses.
    blur_filters: keys of the fixed filters of BlurPool.
    image_size: side in pixels of the images that the position embeddings are
      for; 0 without any, when images may have any size.
    keys: the encoder's keys in the file, by the library's own names.
    head_keys: the classifier's keys, likewise.
    classifier: the classifier, or None.
    prefix: what precedes every key of the encoder in the file.
    left_out: parts of the file that do not belong to the model.
    config_json: what the config.json beside the file says, or None.
    other: another architecture that keys beside the encoder's point to.
  """

  encoder: str
  options: Mapping[str, Any]
  variant: Any
  unstated: tuple[str, ...]
  family: str
  style: Style
  blur_filters: tuple[str, ...]
  image_size: int
  keys: Mapping[str, str]
  head_keys: Mapping[str, str]
  classifier: Classifier | None
  prefix: str
  left_out: tuple[str, ...]
  config_json: ModelConfig | None
  other: str

  def __str__(self) -> str:
    whose = _WHOSE[self.style]
    if self.family == 'ResNet' and self.style == 'timm':
      nested = self.classifier is not None and self.classifier.nested
      raivnlab = self.blurpool or nested
      whose = "RAIVNLab's" if raivnlab else "torchvision's or timm's"
    blur = ' with BlurPool' if self.blurpool else ''
    return f'{whose} {self.encoder}{blur}'

  @property
  def blurpool(self) -> bool:
    """Whether the network blurs before strided convolutions."""
    return bool(self.blur_filters)

  def fits(self, variant: Any) -> bool:
    """Whether the file may hold a network of this geometry."""
    if type(variant) is not type(self.variant):
      return False
    chosen = {name: getattr(variant, name) for name in self.unstated}
    return dataclasses.replace(self.variant, **chosen) == variant

  def flags(self) -> str:
    """The flags of a command that select this encoder."""
    fields = {'encoder': self.encoder, **self.options}
    return ' '.join(f'--config.{name}={x}' for name, x in fields.items())

  def remarks(self, variant: Any, pixels: str = '') -> list[str]:
    """Lines that say what was assumed and what was left out.

    `variant` is the geometry that is used, `pixels` how images are normalised
    where that is assumed too.
    """
    lines = []
    assumed = [geometry.described(variant, self.unstated), pixels]
    if any(assumed):
      no_config = 'nor does config.json'
      if not self.config_json:
        no_config = 'no config.json is there'
      lines.append(
        f'assumed: {", ".join(filter(None, assumed))}; no array tells, '
        f'{no_config}'
      )
    if self.config_json:
      source = self.config_json.source
      lines += [f'{source}: {note}' for note in self.config_json.notes]
    if self.prefix:
      lines.append(f'the prefix {self.prefix} of its keys is left away')
    if self.left_out:
      lines.append(f'not of the model, and left out: {listed(self.left_out)}')
    return lines

  def differing(self, config: Mapping[str, Any]) -> list[str]:
    """Lines that say where config.json prepares images unlike the config."""
    image = self.config_json.image if self.config_json else {}
    plain = lambda x: x if isinstance(x, int) else tuple(x)
    return [
      f'config.json says {name} {value}, this config {config[name]}'
      for name, value in image.items()
      if name in config and plain(config[name]) != value
    ]
