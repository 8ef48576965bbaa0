"""Sets that a trained model is evaluated on, beside its own splits.

The classes of a set are the model's, or classes of its own, each of which some
of the model's count as. `tables/README.md` says where those come from.
"""

from collections.abc import Callable, Sequence
import dataclasses
import io
import pathlib
import re
from typing import NamedTuple

import numpy as np

from mrl_jax.data.images import decode
from mrl_jax.data.sources import folders
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.example import read_checked
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.workdir import files

TABLES = pathlib.Path(__file__).parent / 'tables'


class _Known(NamedTuple):
  """A set of images for ImageNet's classes.

  `table`: of the classes that it has; none: all. `border`: pixels around each
  image that are not part of it.
  """

  dataset: str
  split: str
  table: str = ''
  border: int = 0


KNOWN = {
  'imagenet': _Known('imagenet2012', 'validation'),
  'imagenet_v2': _Known('imagenet_v2/matched-frequency', 'test'),
  'imagenet_a': _Known('imagenet_a', 'test', 'imagenet_a'),
  'imagenet_r': _Known('imagenet_r', 'test', 'imagenet_r'),
  'imagenet_sketch': _Known('imagenet_sketch', 'test'),
  'imagenet_real': _Known('imagenet2012_real', 'validation'),
  # Not in TFDS. A red border of two pixels keeps its images out of training.
  'objectnet': _Known('', '', 'objectnet', border=2),
}
# Prefixes of other metrics.
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
  """Of `NAME` (a key of KNOWN), `NAME=folder:/path`, or `folder:/path`.

  Also `DATASET@SPLIT`, for any TFDS dataset of the model's classes. Raises
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
    name, dataset, split = _plain(pathlib.PurePath(path).name), entry, ''
  else:
    dataset, _, split = entry.partition('@')
    name = _plain(f'{dataset}_{split}')
  if not (split or entry.startswith(FOLDER_PREFIX)) or not name:
    raise ValueError(
      f'eval_sets {entry!r}: must be one of {tuple(KNOWN)}, folder:/path or '
      'DATASET@SPLIT'
    )
  if name in _TAKEN:
    raise ValueError(f'eval_sets {entry!r}: the name {name} is taken')
  return Entry(name, None, dataset, split)


def check(entries: Sequence[str]) -> None:
  """Raises ValueError for what `parse` refuses, and names that come twice."""
  names = [parse(entry).name for entry in entries]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'eval_sets: {name} comes twice')


@dataclasses.dataclass(frozen=True)
class EvalSet:
  """An opened set.

  Attributes:
    name: the prefix of its metrics.
    source: its labels are numbers of `class_names`.
    class_names: of the set.
    members: for each class of the set the model's classes that count as it;
      None: both are the same.
    labels: of an index, all the classes that are right, where there may be
      several; None: the source's alone.
  """

  name: str
  source: Source
  class_names: tuple[str, ...]
  members: tuple[tuple[int, ...], ...] | None = None
  labels: Callable[[int], tuple[int, ...]] | None = None

  def of_model(self, num_classes: int) -> np.ndarray:
    """The class of the set for each class of the model, -1 for none."""
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
  """Opens an entry for a model of these classes.

  For `as_seen` see `source.open_source`; auto depends on the set alone.

  Raises ValueError, as `source.open_source` does, or for classes that are not
  the model's (some of them listed).
  """
  name, known, dataset, split = parse(entry)
  model_classes = tuple(model_classes)
  members = None
  if known and known.table:
    table = files.read_json(
      TABLES / f'{known.table}.json', dict[str, list[str]]
    )
    wanted = [wnid for members in table.values() for wnid in members]
    _check_known(name, wanted, model_classes)
    number = {x: i for i, x in enumerate(model_classes)}
    members = tuple(tuple(number[x] for x in row) for row in table.values())
  classes = tuple(table) if members is not None else model_classes
  if dataset.startswith(FOLDER_PREFIX):
    # ObjectNet has 200 folders that ImageNet has no class for.
    opened = folders.ClassFolders(
      dataset.removeprefix(FOLDER_PREFIX),
      classes,
      others=name == 'objectnet',
      as_seen=as_seen != 'no',
    )
    if known and known.border:
      opened = _Cropped(opened, known.border)
    return EvalSet(name, opened, classes, members)
  from mrl_jax.data.sources import tfds

  if name == 'imagenet_real':
    opened = tfds.TfdsSource(
      dataset,
      split,
      data_dir,
      label='original_label',
      labels='real_label',
      as_seen=as_seen,
    )
  else:
    opened = tfds.TfdsSource(dataset, split, data_dir, as_seen=as_seen)
  if members is None:
    _check_known(name, opened.class_names, classes)
  if opened.class_names != classes:
    opened = Relabelled(opened, classes)
  labels = opened.labels if name == 'imagenet_real' else None
  return EvalSet(name, opened, classes, members, labels)


def _check_known(name, wanted, model_classes) -> None:
  if unknown := sorted(set(wanted) - set(model_classes)):
    more = ', …' if len(unknown) > 5 else ''
    raise ValueError(
      f'eval_sets {name}: {len(unknown)} of its classes are not among the '
      f"model's {len(model_classes)}: {', '.join(unknown[:5])}{more}"
    )


def _plain(name: str) -> str:
  return re.sub(r'[^\w.-]+', '_', name).strip('_')


class _Wrapped:
  """A source whose examples are changed as they are read."""

  def __init__(self, source: Source):
    self._source = source
    self.num_classes = source.num_classes
    self.class_names = source.class_names

  def __len__(self) -> int:
    return len(self._source)


class Relabelled(_Wrapped):
  """Labels are numbers of `classes`, which the source's names are found in."""

  def __init__(self, source: Source, classes: tuple[str, ...]):
    super().__init__(source)
    self._label = provenance.labels(source.class_names, classes)
    self.num_classes, self.class_names = len(classes), classes

  def read(self, index: int) -> Example:
    # A label of -1, which is no class, must not become the last one.
    example = read_checked(self._source, index)
    return example._replace(label=self._label[example.label])

  def labels(self, index: int) -> tuple[int, ...]:
    return tuple(self._label[label] for label in self._source.labels(index))


class _Cropped(_Wrapped):
  """Without `border` pixels on each side."""

  def __init__(self, source: Source, border: int):
    super().__init__(source)
    self._border = border

  def read(self, index: int) -> Example:
    example = self._source.read(index)
    try:
      image = decode.open_rgb(example.data, as_seen=example.as_seen)
    except decode.DamagedImageError:
      return example  # Whoever decodes it counts it.
    width, height = image.size
    border = self._border
    if min(width, height) <= 2 * border:
      raise ValueError(
        f'{example.key}: {width}x{height} pixels: must be more than the border '
        f'of {border} on each side'
      )
    buffer = io.BytesIO()
    box = (border, border, width - border, height - border)
    image.crop(box).save(buffer, 'BMP')
    return example._replace(data=buffer.getvalue(), as_seen=False)
