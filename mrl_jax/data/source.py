"""Where examples come from: a TFDS dataset, or a folder of class folders."""

from collections.abc import Sequence
import concurrent.futures
import copy
import hashlib
import os
import pathlib
from typing import NamedTuple, Protocol

from mrl_jax.data import decode

FOLDER_PREFIX = 'folder:'
_EXTENSIONS = frozenset(
  ['.jpg', '.jpeg', '.png', '.gif', '.bmp', '.tif', '.tiff', '.webp']
)

_CHUNK = 4096


class Example(NamedTuple):
  """One example as it is stored.

  Attributes:
    data: an encoded image.
    label: the class.
    key: what names the example to a person.
  """

  data: bytes
  label: int
  key: str


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

  def part(self, start: int, stop: int) -> 'Source': ...


def open_source(dataset: str, split: str, data_dir: str = '') -> Source:
  """Opens a split of a dataset.

  Args:
    dataset: a TFDS name (`imagenet2012`, `cifar10`, …), the built-in `digits`,
      `folder:/path` with `/path/<split>/<class>/<image>`, or the path of what
      `mrl_jax.data.prepare --out` wrote.
    split: as TFDS names it (slices such as `train[:90%]` work), or the folder's
      name; where a folder has no `train`, see `FolderSource`.
    data_dir: where TFDS datasets are; empty: TFDS's default.

  Raises:
    ValueError: if there is nothing to read, saying how to get it.
  """
  if dataset.startswith(FOLDER_PREFIX):
    return FolderSource(dataset.removeprefix(FOLDER_PREFIX), split)
  from mrl_jax.data import tfds_source

  return tfds_source.TfdsSource(dataset, split, data_dir)


def split_names(dataset: str, data_dir: str = '') -> tuple[str, ...]:
  """The splits of a dataset; raises ValueError as `open_source` does."""
  if dataset.startswith(FOLDER_PREFIX):
    return _folder_splits(_folder_path(dataset.removeprefix(FOLDER_PREFIX)))
  from mrl_jax.data import tfds_source

  builder = tfds_source.open_prepared(dataset, data_dir)
  splits = builder.info.splits.items()
  return tuple(name for name, split in splits if split.num_examples)


def read(source: Source, index: int) -> Example:
  """Reads an example; raises ValueError if its label is not a class."""
  example = source.read(index)
  if not 0 <= example.label < source.num_classes:
    raise ValueError(
      f'label {example.label} of {example.key}: must be in '
      f'[0, {source.num_classes})'
    )
  return example


class FolderSource:
  """Images in class folders; the classes are the folders' names, sorted.

  The splits are the folders below the root. A root that holds the class folders
  themselves (no folder `train`) is split by a hash of each file's name into
  `train` (nine tenths) and `val`.
  """

  def __init__(self, root: str, split: str):
    """Raises ValueError for an empty class, or a file that is not an image."""
    path = _folder_path(root)
    self.folder, self.name, self.version = str(path), 'folder', '1.0.0'
    whole = _is_whole(path)
    self._prefix = '' if whole else f'{split}/'
    train_path = path if whole else path / 'train'
    split_path = path if whole else path / split
    if (whole and split not in ('train', 'val')) or not split_path.is_dir():
      have = _folder_splits(path)
      raise ValueError(
        f'split {split!r} of {FOLDER_PREFIX}{root}: must be one of {have}'
      )
    self.class_names = _folders(train_path)
    if not self.class_names:
      raise ValueError(f'{train_path}: no class folders in it')
    unknown = set(_folders(split_path)) - set(self.class_names)
    if unknown:
      raise ValueError(
        f'{split_path}: classes {sorted(unknown)} are not in {train_path}'
      )
    self.num_classes = len(self.class_names)
    self._root = split_path
    self._files = [
      (name, label)
      for label, class_name in enumerate(self.class_names)
      if (split_path / class_name).is_dir()  # A small split may lack some.
      for name in _images(split_path, class_name)
    ]
    _check_signatures(split_path, [name for name, _ in self._files])
    if whole:
      held_out = [_is_held_out(name) for name, _ in self._files]
      self._files = [
        file
        for file, out in zip(self._files, held_out, strict=True)
        if out == (split == 'val')
      ]
    if not self._files:
      raise ValueError(f'split {split!r} of {FOLDER_PREFIX}{root} is empty')

  def __len__(self) -> int:
    return len(self._files)

  def read(self, index: int) -> Example:
    name, label = self._files[index]
    data = (self._root / name).read_bytes()
    return Example(data, label, self._prefix + name)

  def part(self, start: int, stop: int) -> 'FolderSource':
    """The examples from `start` up to `stop`, and no other when pickled."""
    part = copy.copy(self)
    part._files = self._files[start:stop]
    return part


class ClassFolders:
  """All images below a root's class folders, which are of given classes."""

  def __init__(
    self, root: str, classes: Sequence[str], *, others: bool = False
  ):
    """Raises ValueError for an empty class, or a file that is not an image.

    Args:
      root: has a folder for each class, or for some.
      classes: labels are their numbers.
      others: pass over folders of other names, which else are a ValueError.
    """
    path = _folder_path(root)
    self.folder, self.name, self.version = str(path), 'folder', '1.0.0'
    self.class_names, self.num_classes = tuple(classes), len(classes)
    there = _folders(path)
    unknown = sorted(set(there) - set(classes))
    if unknown and not others:
      more = ', …' if len(unknown) > 5 else ''
      raise ValueError(
        f'{FOLDER_PREFIX}{root}: {len(unknown)} of its folders are no class '
        f'of the model: {", ".join(unknown[:5])}{more}'
      )
    labels = {name: label for label, name in enumerate(classes)}
    self._root = path
    self._files = [
      (name, labels[folder])
      for folder in there
      if folder in labels
      for name in _images(path, folder)
    ]
    if not self._files:
      raise ValueError(f'{FOLDER_PREFIX}{root}: no class folders in it')
    _check_signatures(path, [name for name, _ in self._files])

  def __len__(self) -> int:
    return len(self._files)

  def read(self, index: int) -> Example:
    name, label = self._files[index]
    return Example((self._root / name).read_bytes(), label, name)


def _folder_path(root: str) -> pathlib.Path:
  if not root:
    raise ValueError(
      'dataset folder: has no path: give --config.dataset=folder:/path'
    )
  path = pathlib.Path(root).expanduser()
  if not path.is_dir():
    raise ValueError(f'dataset {FOLDER_PREFIX}{root}: no such folder')
  return path


def _is_whole(path: pathlib.Path) -> bool:
  """Whether the class folders are at the root, in no split folders."""
  return not (path / 'train').is_dir()


def _folder_splits(path: pathlib.Path) -> tuple[str, ...]:
  return ('train', 'val') if _is_whole(path) else _folders(path)


def _folders(path: pathlib.Path) -> tuple[str, ...]:
  return tuple(
    sorted(
      entry.name
      for entry in os.scandir(path)
      if entry.is_dir() and not entry.name.startswith('.')
    )
  )


def _images(root: pathlib.Path, class_name: str) -> list[str]:
  """The images below a class folder, sorted; hidden files are passed over."""
  names = []
  for folder, _, files in os.walk(root / class_name):
    for file in files:
      if not file.startswith('.'):
        names.append(os.path.relpath(os.path.join(folder, file), root))
  if not names:
    raise ValueError(f'class folder {root / class_name} is empty')
  for name in names:
    extension = os.path.splitext(name)[1].lower()
    if extension not in _EXTENSIONS or not os.path.isfile(root / name):
      raise ValueError(f'{root / name} is not an image')
  return sorted(names)


def _check_signatures(root: pathlib.Path, names: Sequence[str]) -> None:
  """Reads the first bytes of every file: cheaper than failing hours later."""

  def check(name):
    with open(root / name, 'rb') as file:
      return decode.is_image(file.read(12))

  with concurrent.futures.ThreadPoolExecutor() as pool:
    # In chunks, so that a large folder does not queue a future for each image.
    for start in range(0, len(names), _CHUNK):
      chunk = names[start : start + _CHUNK]
      for name, ok in zip(chunk, pool.map(check, chunk), strict=True):
        if not ok:
          raise ValueError(
            f'{root / name} is not an image: its first bytes are of no known '
            'format'
          )


def _is_held_out(name: str) -> bool:
  # Of the name alone, so that adding images moves none between the splits.
  return hashlib.sha256(os.fsencode(name)).digest()[0] % 10 == 0
