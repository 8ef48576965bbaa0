"""The settings of a model that the config.json beside it states."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from mrl_jax.models import geometry


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The settings of a model that a config.json states.

  Attributes:
    source: path of the config.json.
    model: the model's name there.
    traits: the fields of a variant that it states, with their values.
    num_classes: number of classes; None if it is not stated.
    image: fields of a config that state how images are prepared.
    notes: small differences from what it asks for, as text.
  """

  source: str
  model: str
  traits: Mapping[str, Any]
  num_classes: int | None = None
  image: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def applied(self, name: str, variant: Any) -> Any:
    """The geometry that the arrays show, with the traits that they do not.

    Raises ValueError if a stated trait contradicts the arrays.
    """
    unseen = geometry.unseen(variant)
    fields = dataclasses.asdict(variant)
    for trait, value in self.traits.items():
      if trait not in fields:
        self._refuse(f'says {self.model}, but its arrays are of {name}')
      if trait not in unseen and fields[trait] != value:
        self._refuse(
          f'says {self.model} with {trait} {value}, but its arrays are of '
          f'{name}, with {trait} {fields[trait]}'
        )
    return dataclasses.replace(
      variant, **{k: v for k, v in self.traits.items() if k in unseen}
    )

  def check_sizes(self, num_classes: int | None, image_size: int) -> None:
    """Raises ValueError if the file's sizes differ from what is stated.

    They are None without a classifier, and 0 without position embeddings.
    """
    if num_classes and self.num_classes not in (None, num_classes):
      self._refuse(
        f'says {self.num_classes} classes, but the classifier of the file has '
        f'{num_classes}'
      )
    stated = self.image.get('image_size', image_size)
    if image_size and stated != image_size:
      self._refuse(
        f'says images of {stated} pixels, but the positions in the file are '
        f'for {image_size}'
      )

  def _refuse(self, reason: str) -> None:
    raise ValueError(
      f'{self.source} {reason}: put the config.json of this file beside it, or '
      'move it away'
    )


def image_fields(
  mean: Sequence[float] | None,
  std: Sequence[float] | None,
  size: int | None,
  crop: float | None,
  interpolation: str | None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """`ModelConfig.image` and `.notes`; None stands for what is not stated.

  Mean and std are of pixels in [0, 1]; `size` is in pixels, and `crop` its
  share of the shorter side before the crop.
  """
  image = {}
  if mean and std:
    image = {'mean': tuple(mean), 'std': tuple(std)}
  if size:
    image['eval_image_size'] = size
    image['eval_resize'] = round(size / (crop or 0.875))
  notes = ()
  if interpolation not in (None, 'bilinear'):
    notes = (f'images are resized bilinearly, not {interpolation}',)
  return image, notes


def require(path: pathlib.Path, name: str, value: Any, right: Any) -> None:
  """Raises ValueError if a field of the file has another value than `right`."""
  if value != right:
    raise ValueError(f'{path} has {name} {value!r}: must be {right} here')
