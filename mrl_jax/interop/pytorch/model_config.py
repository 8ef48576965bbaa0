"""What a config.json says of the model in a file beside it."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from mrl_jax.models import geometry


@dataclasses.dataclass(frozen=True)
class Told:
  """What a config.json says.

  Attributes:
    source: the file, and whose it is.
    model: its name there.
    traits: fields of a variant, at the values that it says.
    num_classes: of the classifier; None: not said.
    image: fields of a config that say how images are prepared.
    notes: what cannot be followed to the letter, and is small.
  """

  source: str
  model: str
  traits: Mapping[str, Any]
  num_classes: int | None = None
  image: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def applied(self, name: str, variant: Any) -> Any:
    """The variant of the arrays, named so, with what arrays do not show.

    Raises ValueError if the arrays contradict the rest.
    """
    unseen = geometry.unseen(variant)
    fields = dataclasses.asdict(variant)
    for trait, value in self.traits.items():
      if trait not in fields:
        self.refuse(f'says {self.model}, but its arrays are of {name}')
      if trait not in unseen and fields[trait] != value:
        self.refuse(
          f'says {self.model} with {trait} {value}, but its arrays are of '
          f'{name}, with {trait} {fields[trait]}'
        )
    return dataclasses.replace(
      variant, **{k: v for k, v in self.traits.items() if k in unseen}
    )

  def check_sizes(self, num_classes: int | None, image_size: int) -> None:
    """Raises ValueError if the file has other numbers than it says.

    The file's are None without a classifier, and 0 without positions.
    """
    if num_classes and self.num_classes not in (None, num_classes):
      self.refuse(
        f'says {self.num_classes} classes, but the classifier of the file has '
        f'{num_classes}'
      )
    told = self.image.get('image_size', image_size)
    if image_size and told != image_size:
      self.refuse(
        f'says images of {told} pixels, but the positions in the file are for '
        f'{image_size}'
      )

  def refuse(self, reason: str) -> None:
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
  """Fields of a config for such images, and notes on what is done otherwise.

  Args:
    mean: of each channel, where pixels are in [0, 1]; None: not said.
    std: likewise.
    size: side of the images, pixels; None: not said.
    crop: the side's share of the shorter side before the crop.
    interpolation: the name of the filter that resizes.
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
  """Raises ValueError if a field of the file has another value."""
  if value != right:
    raise ValueError(f'{path} has {name} {value!r}: must be {right} here')
