"""An example as it is stored, and what every source of examples offers."""

from typing import NamedTuple, Protocol


class Example(NamedTuple):
  """One example as it is stored: an encoded image and its class.

  `key` is a name for people, such as the file's. With `as_seen` the image is to
  be turned as its EXIF orientation says, and laid over white.
  """

  data: bytes
  label: int
  key: str
  as_seen: bool = False


class Listed(Protocol):
  """The attributes that splits of images and of vectors have in common."""

  name: str
  version: str
  class_names: tuple[str, ...]

  def listing(self) -> dict[str, str]:
    """A text for each part of the split, which changes with its content."""
    ...


class Source(Listed, Protocol):
  """Random access to the examples of one split. Threads may share it.

  Labels are below `num_classes`. `folder` holds all splits of the dataset.
  """

  num_classes: int
  folder: str

  def __len__(self) -> int: ...

  def read(self, index: int) -> Example: ...

  def part(self, start: int, stop: int) -> 'Source':
    """The examples from `start` up to `stop`."""
    ...


def read_checked(source: Source, index: int) -> Example:
  """Reads an example; raises ValueError if its label is not a class."""
  example = source.read(index)
  if not 0 <= example.label < source.num_classes:
    raise ValueError(
      f'label {example.label} of {example.key}: must be in '
      f'[0, {source.num_classes})'
    )
  return example
