"""An example as it is stored, and what every source of examples offers."""

from typing import NamedTuple, Protocol


class Example(NamedTuple):
  """One example as it is stored.

  Attributes:
    data: an encoded image.
    label: the class.
    key: what names the example to a person.
    as_seen: whether to show it as people see it, see `decode.open_rgb`.
  """

  data: bytes
  label: int
  key: str
  as_seen: bool = False


class Source(Protocol):
  """Random access to the examples of one split. Safe to share by threads.

  Attributes:
    num_classes: labels are below it.
    class_names: one for each label.
    name: of the dataset, as TFDS's file names have it.
    version: of the dataset.
    folder: that holds all its splits.
  """

  num_classes: int
  class_names: tuple[str, ...]
  name: str
  version: str
  folder: str

  def __len__(self) -> int: ...

  def read(self, index: int) -> Example: ...

  def listing(self) -> dict[str, str]: ...

  def part(self, start: int, stop: int) -> 'Source': ...


def read_checked(source: Source, index: int) -> Example:
  """Reads an example; raises ValueError if its label is not a class."""
  example = source.read(index)
  if not 0 <= example.label < source.num_classes:
    raise ValueError(
      f'label {example.label} of {example.key}: must be in '
      f'[0, {source.num_classes})'
    )
  return example
