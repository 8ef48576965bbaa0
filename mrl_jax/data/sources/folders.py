"""Images in class folders, below a folder for each split or below one root."""

from collections.abc import Sequence
import copy
import hashlib
import os
import pathlib

from mrl_jax.data.sources import digests
from mrl_jax.data.sources import image_tree
from mrl_jax.data.sources import listing
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.workdir import files


class FolderSource:
  """Images in class folders; the classes are the folders' names, sorted.

  The splits are the folders below the root. A root that holds the class folders
  themselves (no folder `train`) is split by a hash of each file's name into
  `train` (nine tenths) and `val`. What is an image of a class, and which trees
  are refused, `image_tree` says.
  """

  def __init__(
    self, root: str, split: str, *, as_seen: bool = True, check: bool = True
  ):
    """Raises ValueError for a tree that `image_tree` refuses."""
    path = _folder_path(root)
    self.folder, self.name, self.version = str(path), 'folder', '1.0.0'
    whole = is_whole(path)
    self._prefix, self._as_seen = '' if whole else f'{split}/', as_seen
    train_path = path if whole else path / 'train'
    split_path = path if whole else path / split
    self.class_names = image_tree.check_classes(train_path, splits=not whole)
    if (whole and split not in ('train', 'val')) or not split_path.is_dir():
      have = _split_names(path)
      raise ValueError(
        f'split {split!r} of {FOLDER_PREFIX}{root}: must be one of {have}'
      )
    there = listing.folder_names(split_path)
    image_tree.check_beside(split_path, there)
    unknown = set(there) - set(self.class_names)
    if unknown:
      raise ValueError(
        f'{split_path}: classes {sorted(unknown)} are not in {train_path}'
      )
    self.num_classes = len(self.class_names)
    self._root = split_path
    labels = {name: label for label, name in enumerate(self.class_names)}
    # A small split may lack some classes.
    self._files = [
      (name, labels[folder])
      for folder, names in zip(
        there, image_tree.images(split_path, there, check=check), strict=True
      )
      for name in names
    ]
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
    return Example(data, label, self._prefix + name, self._as_seen)

  def listing(self) -> dict[str, str]:
    """For each class in the split, its number of files and a digest of them."""
    return digests.of_folder(self._root, self._files, self.class_names)

  def part(self, start: int, stop: int) -> 'FolderSource':
    """The examples from `start` up to `stop`, and no other when pickled."""
    part = copy.copy(self)
    part._files = self._files[start:stop]
    return part


class ClassFolders:
  """All images below a root's class folders, which are of given classes."""

  def __init__(
    self,
    root: str,
    classes: Sequence[str],
    *,
    others: bool = False,
    as_seen: bool = True,
  ):
    """Raises ValueError for a tree that `image_tree` refuses.

    Args:
      root: has a folder for each class, or for some.
      classes: labels are their numbers.
      others: pass over folders of other names, which else are a ValueError.
      as_seen: see `open_source`.
    """
    path = _folder_path(root)
    self._as_seen = as_seen
    self.folder, self.name, self.version = str(path), 'folder', '1.0.0'
    self.class_names, self.num_classes = tuple(classes), len(classes)
    there = listing.folder_names(path)
    image_tree.check_beside(path, there)
    unknown = sorted(set(there) - set(classes))
    if unknown and not others:
      more = ', …' if len(unknown) > 5 else ''
      if any(map(image_tree.names_a_split, unknown)):
        more += f': give {FOLDER_PREFIX}{path / unknown[0]} if it is a split'
      raise ValueError(
        f'{FOLDER_PREFIX}{root}: {len(unknown)} of its folders are no class '
        f'of the model: {", ".join(unknown[:5])}{more}'
      )
    labels = {name: label for label, name in enumerate(classes)}
    there = [name for name in there if name in labels]
    if not there:
      raise ValueError(f'{FOLDER_PREFIX}{root}: no class folders in it')
    self._root = path
    self._files = [
      (name, labels[folder])
      for folder, names in zip(
        there, image_tree.images(path, there), strict=True
      )
      for name in names
    ]

  def __len__(self) -> int:
    return len(self._files)

  def read(self, index: int) -> Example:
    name, label = self._files[index]
    data = (self._root / name).read_bytes()
    return Example(data, label, name, self._as_seen)


def split_names(root: str) -> tuple[str, ...]:
  """The splits of a dataset in a folder, sorted."""
  return _split_names(_folder_path(root))


def _folder_path(root: str) -> pathlib.Path:
  if not root:
    raise ValueError(
      'dataset folder: has no path: give --config.dataset=folder:/path'
    )
  path = files.local(root, 'dataset folder')
  if not path.is_dir():
    raise ValueError(f'dataset {FOLDER_PREFIX}{root}: no such folder')
  return path


def is_whole(path: pathlib.Path) -> bool:
  """Whether the class folders are at the root, in no split folders."""
  return not (path / 'train').is_dir()


def _split_names(path: pathlib.Path) -> tuple[str, ...]:
  return ('train', 'val') if is_whole(path) else listing.folder_names(path)


def _is_held_out(name: str) -> bool:
  # Of the name alone, so that adding images moves none between the splits.
  return hashlib.sha256(os.fsencode(name)).digest()[0] % 10 == 0
