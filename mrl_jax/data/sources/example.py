"""An example as it is stored, and what every source of examples offers."""

from typing import NamedTuple, Protocol


class Example(NamedTuple):
  """One example as it is stored.

  Attributes:
    data: an encoded image.
    label: the class.
    key: a name for people, such as the file's.
    as_seen: whether to turn it as its EXIF orientation says, and lay
      transparent pixels over white.
  """

  data: bytes
  label: int
  key: str
  as_seen: bool = False


class Listed(Protocol):
  """The attributes that splits of images and of vectors have in common.

  Attributes:
    name: the dataset's name, as in TFDS's file names.
    version: the dataset's version.
    class_names: the classes, by label.
  """

  name: str
  version: str
  class_names: tuple[str, ...]

  def listing(self) -> dict[str, str]:
    """A text for each part of the split, which changes with its content."""
    ...


class Source(Listed, Protocol):
  """Random access to the examples of one split. Threads may share it.

  Attributes:
    num_classes: labels are below it.
    folder: the folder of the dataset, with all its splits.
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
