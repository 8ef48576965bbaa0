"""Images in class folders, and how such folders are opened as a dataset."""

from collections.abc import Sequence
import copy
import hashlib
import itertools
import os
import pathlib
import unicodedata

from mrl_jax.data.sources import directory
from mrl_jax.data.sources import image_tree
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.workdir import files


class FolderSource:
  """The images of class folders, as a `Source`."""

  name, version = 'folder', '1.0.0'

  def __init__(
    self,
    root: pathlib.Path,
    images: Sequence[tuple[str, int]],
    class_names: Sequence[str],
    *,
    folder: pathlib.Path,
    as_seen: bool,
  ):
    """Takes the images: paths below `root` and labels, ordered by class.

    `root` holds the class folders; keys are relative to the dataset's `folder`.
    """
    self.folder = str(folder)
    self.class_names, self.num_classes = tuple(class_names), len(class_names)
    self._root, self._files, self._as_seen = root, images, as_seen
    self._prefix = '' if root == folder else f'{root.relative_to(folder)}/'

  def __len__(self) -> int:
    return len(self._files)

  def read(self, index: int) -> Example:
    name, label = self._files[index]
    data = (self._root / name).read_bytes()
    return Example(data, label, self._prefix + name, self._as_seen)

  def listing(self) -> dict[str, str]:
    """A text for each class folder, by its name: `directory.summary`."""
    sizes = directory.sizes(self._root, [name for name, _ in self._files])
    by_class = itertools.groupby(
      zip(self._files, sizes, strict=True), key=lambda pair: pair[0][1]
    )
    found = {}
    for label, pairs in by_class:
      name = self.class_names[label]
      found[unicodedata.normalize('NFC', name)] = directory.summary(
        self._root, [(path, size) for (path, _), size in pairs], name
      )
    return found

  def part(self, start: int, stop: int) -> 'FolderSource':
    """The examples from `start` up to `stop`, and no other when pickled."""
    part = copy.copy(self)
    part._files = self._files[start:stop]
    return part


def open_split(
  root: str, split: str, *, as_seen: bool = True, check: bool = True
) -> FolderSource:
  """Opens a split of a dataset; the classes are its folders' names, sorted.

  The splits are the folders in `root`. A root that holds the class folders
  themselves (no folder `train`) is split by a hash of each file's name into
  `train` (nine tenths) and `val`. Raises ValueError if there is no such split,
  it is empty, or `image_tree` refuses it.
  """
  path = _dataset_path(root)
  whole = is_unsplit(path)
  train_path = path if whole else path / 'train'
  split_path = path if whole else path / split
  class_names = image_tree.check_classes(train_path, splits=not whole)
  if (whole and split not in ('train', 'val')) or not split_path.is_dir():
    raise ValueError(
      f'split {split!r} of {FOLDER_PREFIX}{root}: must be one of '
      f'{split_names(root)}'
    )
  # A small split may lack some classes.
  there = directory.folder_names(split_path)
  image_tree.check_beside(split_path, there)
  if unknown := set(there) - set(class_names):
    raise ValueError(
      f'{split_path}: classes {sorted(unknown)} are not in {train_path}'
    )
  found = _labelled(split_path, there, class_names, check=check)
  if whole:
    found = [x for x in found if _is_held_out(x[0]) == (split == 'val')]
  if not found:
    raise ValueError(f'split {split!r} of {FOLDER_PREFIX}{root} is empty')
  return FolderSource(
    split_path, found, class_names, folder=path, as_seen=as_seen
  )


def open_classes(
  root: str,
  classes: Sequence[str],
  *,
  ignore_others: bool = False,
  as_seen: bool = True,
) -> FolderSource:
  """Opens all images in the folders of these classes, some of which may lack.

  Raises ValueError if there is no class folder, `image_tree` refuses them, or,
  unless `ignore_others`, there are folders of other names.
  """
  path = _dataset_path(root)
  there = directory.folder_names(path)
  image_tree.check_beside(path, there)
  unknown = sorted(set(there) - set(classes))
  if unknown and not ignore_others:
    advice = ''
    if any(map(image_tree.names_a_split, unknown)):
      advice = f': give {FOLDER_PREFIX}{path / unknown[0]} if it is a split'
    raise ValueError(
      f'{FOLDER_PREFIX}{root}: {len(unknown)} of its folders are no class '
      f'of the model: {directory.first(unknown, 5)}{advice}'
    )
  there = [name for name in there if name not in unknown]
  if not there:
    raise ValueError(f'{FOLDER_PREFIX}{root}: no class folders in it')
  found = _labelled(path, there, classes)
  return FolderSource(path, found, classes, folder=path, as_seen=as_seen)


def split_names(root: str) -> tuple[str, ...]:
  """The splits of a dataset, sorted."""
  path = _dataset_path(root)
  return ('train', 'val') if is_unsplit(path) else directory.folder_names(path)


def is_unsplit(path: pathlib.Path) -> bool:
  """Whether a dataset's class folders lie in it, not in folders of splits."""
  return not (path / 'train').is_dir()


def _dataset_path(root: str) -> pathlib.Path:
  if not root:
    raise ValueError(
      'dataset folder: has no path: give --config.dataset=folder:/path'
    )
  path = files.local(root, 'dataset folder')
  if not path.is_dir():
    raise ValueError(f'dataset {FOLDER_PREFIX}{root}: no such folder')
  return path


def _labelled(
  root: pathlib.Path,
  there: Sequence[str],
  class_names: Sequence[str],
  *,
  check: bool = True,
) -> list[tuple[str, int]]:
  """The images of the class folders `there`, each with its class's number."""
  labels = {name: label for label, name in enumerate(class_names)}
  found = image_tree.images(root, there, check=check)
  return [
    (name, labels[class_name])
    for class_name, names in zip(there, found, strict=True)
    for name in names
  ]


def _is_held_out(name: str) -> bool:
  # By the name alone, so that adding images moves none between the splits.
  return hashlib.sha256(os.fsencode(name)).digest()[0] % 10 == 0
