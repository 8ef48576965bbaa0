"""Evaluation sets beside a model's own splits, such as ImageNet-A and -R.

A set has the model's classes, or its own, each of which some of the model's
classes count as. `tables/README.md` says where those tables come from.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import re
from typing import NamedTuple

import numpy as np

from mrl_jax.data.sources import folders
from mrl_jax.data.sources.directory import first
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.data.sources.wrappers import Cropped
from mrl_jax.data.sources.wrappers import Relabelled
from mrl_jax.workdir import files

TABLES = pathlib.Path(__file__).parent / 'tables'


class _Known(NamedTuple):
  """A published evaluation set for models of ImageNet's classes."""

  dataset: str  # Its name in TFDS; empty: TFDS does not have it.
  split: str
  table: str = ''  # The file in `tables` with its classes; else ImageNet's.
  border: int = 0  # Pixels around each image that are not part of it.


KNOWN = {
  'imagenet': _Known('imagenet2012', 'validation'),
  'imagenet_v2': _Known('imagenet_v2/matched-frequency', 'test'),
  'imagenet_a': _Known('imagenet_a', 'test', 'imagenet_a'),
  'imagenet_r': _Known('imagenet_r', 'test', 'imagenet_r'),
  'imagenet_sketch': _Known('imagenet_sketch', 'test'),
  'imagenet_real': _Known('imagenet2012_real', 'validation'),
  # A red border of two pixels keeps its images out of training.
  'objectnet': _Known('', '', 'objectnet', border=2),
}
# Names that a set may not have, as other metrics begin with them.
_TAKEN = frozenset(
  ['train', 'val', 'val_flip', 'retrieval', 'analysis', *KNOWN]
)


class Entry(NamedTuple):
  """An entry of `config.eval_sets`."""

  name: str
  known: _Known | None
  dataset: str
  split: str


def parse(entry: str) -> Entry:
  """Parses an entry of `config.eval_sets`.

  It is `NAME` or `NAME=folder:/path` for a set in `KNOWN`, and `DATASET@SPLIT`
  (of TFDS) or `folder:/path` for images of the model's classes. Raises
  ValueError for anything else.
  """
  name, given, folder = entry.partition('=')
  if given:
    if name not in KNOWN or not folder.startswith(FOLDER_PREFIX):
      raise ValueError(
        f'eval_sets {entry!r}: must be NAME=folder:/path, NAME one of '
        f'{tuple(KNOWN)}'
      )
    return Entry(name, KNOWN[name], folder, '')
  if entry in KNOWN:
    known = KNOWN[entry]
    if not known.dataset:
      raise ValueError(
        f'eval_sets {entry!r}: TFDS does not have it: give {entry}='
        'folder:/path, where its class folders are'
      )
    return Entry(entry, known, known.dataset, known.split)
  if entry.startswith(FOLDER_PREFIX):
    path = entry.removeprefix(FOLDER_PREFIX)
    name, dataset, split = _metric_name(pathlib.PurePath(path).name), entry, ''
  else:
    dataset, _, split = entry.partition('@')
    name = _metric_name(f'{dataset}_{split}')
  if not (split or entry.startswith(FOLDER_PREFIX)) or not name:
    raise ValueError(
      f'eval_sets {entry!r}: must be one of {tuple(KNOWN)}, folder:/path or '
      'DATASET@SPLIT'
    )
  if name in _TAKEN:
    raise ValueError(f'eval_sets {entry!r}: the name {name} is taken')
  return Entry(name, None, dataset, split)


def check(entries: Sequence[str]) -> None:
  """Raises ValueError if `parse` does, or if a name comes twice."""
  names = [parse(entry).name for entry in entries]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'eval_sets: {name} comes twice')


@dataclasses.dataclass(frozen=True)
class EvalSet:
  """An opened evaluation set; labels are positions in `class_names`."""

  name: str  # The prefix of its metrics.
  source: Source
  class_names: tuple[str, ...]
  # For each class the model's classes that count as it; None: the same classes.
  members: tuple[tuple[int, ...], ...] | None = None
  # Returns all right classes of an example by its index; None: its label.
  labels: Callable[[int], tuple[int, ...]] | None = None

  def of_model(self, num_classes: int) -> np.ndarray:
    """Maps each class of the model to the set's class, or -1: [num_classes]."""
    if self.members is None:
      return np.arange(num_classes)
    class_C = np.full(num_classes, -1)
    for label, members in enumerate(self.members):
      class_C[list(members)] = label
    return class_C


def open_set(
  entry: str,
  model_classes: Sequence[str],
  data_dir: str = '',
  *,
  as_seen: str = 'auto',
) -> EvalSet:
  """Opens a set for a model of these classes.

  `data_dir` and `as_seen` are those of `open_source`. Raises ValueError as it
  does, and for classes that are not the model's.
  """
  name, known, dataset, split = parse(entry)
  classes, members = tuple(model_classes), None
  if known and known.table:
    table = files.read_json(
      TABLES / f'{known.table}.json', dict[str, list[str]]
    )
    wanted = [wnid for row in table.values() for wnid in row]
    _check_known(name, wanted, model_classes)
    number = {wnid: i for i, wnid in enumerate(model_classes)}
    members = tuple(tuple(number[x] for x in row) for row in table.values())
    classes = tuple(table)
  if dataset.startswith(FOLDER_PREFIX):
    opened = folders.open_classes(
      dataset.removeprefix(FOLDER_PREFIX),
      classes,
      # ObjectNet has 200 folders that ImageNet has no class for.
      ignore_others=name == 'objectnet',
      as_seen=as_seen != 'no',
    )
    if known and known.border:
      opened = Cropped(opened, known.border)
    return EvalSet(name, opened, classes, members)
  from mrl_jax.data.sources.tfds import TfdsSource

  is_real = name == 'imagenet_real'
  features = {'label': 'original_label', 'labels': 'real_label'}
  opened = TfdsSource(
    dataset, split, data_dir, as_seen=as_seen, **(features if is_real else {})
  )
  if members is None:
    _check_known(name, opened.class_names, classes)
  if opened.class_names != classes:
    opened = Relabelled(opened, classes)
  labels = opened.labels if is_real else None
  return EvalSet(name, opened, classes, members, labels)


def _check_known(
  name: str, wanted: Sequence[str], model_classes: Sequence[str]
) -> None:
  if unknown := sorted(set(wanted) - set(model_classes)):
    raise ValueError(
      f'eval_sets {name}: {len(unknown)} of its classes are not among the '
      f"model's {len(model_classes)}: {first(unknown, 5)}"
    )


def _metric_name(name: str) -> str:
  return re.sub(r'[^\w.-]+', '_', name).strip('_')
