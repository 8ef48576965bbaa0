"""The datasets of pictures with captions that a config names, opened."""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from mrl_jax.data.pairs import sources
from mrl_jax.data.sources import datasets as image_datasets
from mrl_jax.data.sources.example import Source
from mrl_jax.workdir import files

KINDS = ('retrieval', 'zero_shot')
_TAR = '.tar'
_NEIGHBORS = 'neighbors='


class Entry(NamedTuple):
  """An entry of `eval_sets`.

  Attributes:
    name: its name in metrics.
    kind: one of `KINDS`.
    path: pairs as `open_pairs` takes them, or the name of a dataset of images.
    split: the split of images with classes.
    neighbors: the split that k-NN takes its neighbours from; '': there is none.
  """

  name: str
  kind: str
  path: str
  split: str = ''
  neighbors: str = ''


def parse(text: str) -> Entry:
  """Parses an entry; raises ValueError if it is none.

  It is `[name=]retrieval:PAIRS`, or `[name=]zero_shot:DATASET@SPLIT`, which may
  end in `?neighbors=SPLIT`. Its name is the kind if it has none of its own.
  """
  head, _, query = text.partition('?')
  before, colon, path = head.partition(':')
  name, equals, kind = before.rpartition('=')
  split, ok = '', colon and kind in KINDS and path and (name or not equals)
  if ok and kind == 'zero_shot':
    path, _, split = path.rpartition('@')
    ok = path and split and (not query or query.startswith(_NEIGHBORS))
  elif query:
    ok = False
  if not ok or '/' in name or '@' in name:
    raise ValueError(
      f'eval_sets {text!r}: must be [name=]retrieval:PAIRS or '
      '[name=]zero_shot:DATASET@SPLIT[?neighbors=SPLIT]'
    )
  return Entry(name or kind, kind, path, split, query.removeprefix(_NEIGHBORS))


def check(entries: Sequence[str]) -> None:
  """Raises ValueError for an entry that cannot be parsed, or a name twice."""
  names = [parse(text).name for text in entries]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'eval_sets: the name {name!r} stands twice')


def open_pairs(
  path: str, column_names: Sequence[str] = sources.COLUMNS
) -> sources.Pairs:
  """Opens pictures with captions.

  Args:
    path: a folder of pictures with a table, see `sources.open_folder`; a folder
      of WebDataset's tars; or one tar, with `*` in its name several.
    column_names: the columns of a table, the picture's path and the caption.

  Raises:
    ValueError: it is none of these, damaged, or no pair is left.
  """
  given = pathlib.Path(path).expanduser()
  if given.name.endswith(_TAR):
    tars = [given]
    if '*' in given.name:
      tars = sorted(given.parent.glob(given.name))
    if not tars:
      raise ValueError(f'pairs {path}: there is no such tar')
    return sources.open_tars(tars)
  folder = files.local(path, 'pairs')
  if not folder.is_dir():
    raise ValueError(
      f'pairs {path}: must be a folder of pictures with a table of captions, '
      f'or tars (*{_TAR})'
    )
  if tars := sorted(folder.glob(f'*{_TAR}')):
    return sources.open_tars(tars)
  return sources.open_folder(folder, column_names=column_names)


class PairSet(NamedTuple):
  """An evaluation set, open.

  Attributes:
    name: its name in metrics.
    kind: one of `KINDS`.
    source: the pictures: `Pairs`, or images with classes.
    neighbors: images whose classes k-NN takes; None: k-NN is left out.
  """

  name: str
  kind: str
  source: Source | sources.Pairs
  neighbors: Source | None = None


def open_set(
  text: str, column_names: Sequence[str], data_dir: str = ''
) -> PairSet:
  """Opens an entry of `eval_sets`; raises ValueError, with its name, if not."""
  entry = parse(text)
  try:
    if entry.kind == 'retrieval':
      return PairSet(
        entry.name, entry.kind, open_pairs(entry.path, column_names)
      )
    opened = image_datasets.open_source(entry.path, entry.split, data_dir)
    near = None
    if entry.neighbors:
      near = image_datasets.open_source(entry.path, entry.neighbors, data_dir)
      if near.class_names != opened.class_names:
        raise ValueError(f'{entry.neighbors} has other classes')
  except ValueError as error:
    raise ValueError(f'eval_sets {text!r}: {error}') from None
  return PairSet(entry.name, entry.kind, opened, near)
