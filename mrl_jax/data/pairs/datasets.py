"""The datasets of pictures with captions that a config names, opened."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import NamedTuple

from mrl_jax.analysis import pairs as analysis
from mrl_jax.data.pairs import sources
from mrl_jax.data.sources import datasets as image_datasets
from mrl_jax.data.sources.example import Source
from mrl_jax.data.text import tfds as text_tfds
from mrl_jax.workdir import files

# The options that an entry of each kind may have.
KINDS = {
  'retrieval': ('shortlist', 'words'),
  'zero_shot': ('neighbors', 'templates'),
}
_TAR = '.tar'


class Entry(NamedTuple):
  """An entry of `eval_sets`.

  Attributes:
    name: its name in metrics.
    kind: one of `KINDS`.
    path: pairs as `open_pairs` takes them, or the name of a dataset of images.
    split: the split of images with classes.
    neighbors: the split that k-NN takes its neighbours from; '': there is none.
    templates: the texts of a class, with `{}` where its name belongs.
    shortlist: number of rows that adaptive searches rerank in full.
    words: what the page shows searches for; empty: some of the captions.
  """

  name: str
  kind: str
  path: str
  split: str = ''
  neighbors: str = ''
  templates: tuple[str, ...] = ('{}',)
  shortlist: int = 200
  words: tuple[str, ...] = ()


def parse(text: str) -> Entry:
  """Parses an entry; raises ValueError if it is none.

  It is `[name=]retrieval:PAIRS`, with `?shortlist=200&words=a cat|a red car`,
  or `[name=]zero_shot:DATASET@SPLIT`, with `?neighbors=SPLIT&templates=a {}|the
  {}`. Words and templates may be a `.txt` file with one a line. Its name is the
  kind if it has none of its own.
  """
  head, _, query = text.partition('?')
  before, colon, path = head.partition(':')
  name, equals, kind = before.rpartition('=')
  ok = colon and kind in KINDS and path and (name or not equals)
  split = ''
  if ok and kind == 'zero_shot':
    path, _, split = path.rpartition('@')
    ok = path and split
  if not ok or '/' in name or '@' in name:
    raise ValueError(
      f'eval_sets {text!r}: must be [name=]retrieval:PAIRS or '
      '[name=]zero_shot:DATASET@SPLIT'
    )
  options = {}
  for option in filter(None, query.split('&')):
    key, equals, value = option.partition('=')
    if key not in KINDS[kind] or not value:
      raise ValueError(
        f'eval_sets {text!r}: {option!r} must be one of '
        f'{", ".join(f"{x}=" for x in KINDS[kind])}'
      )
    options[key] = value
  entry = Entry(name or kind, kind, path, split, options.get('neighbors', ''))
  return _with_options(entry, options, text)


def _with_options(entry: Entry, options: Mapping[str, str], text: str) -> Entry:
  if templates := _lines(options, 'templates'):
    analysis.prompts(['a'], templates)  # Refuses those without a place.
    entry = entry._replace(templates=templates)
  entry = entry._replace(words=_lines(options, 'words'))
  if count := options.get('shortlist'):
    if not count.isdecimal() or not int(count):
      raise ValueError(f'eval_sets {text!r}: shortlist must be a number')
    entry = entry._replace(shortlist=int(count))
  return entry


def _lines(options: Mapping[str, str], name: str) -> tuple[str, ...]:
  """The texts of an option, or those of its file; none without it."""
  written = options.get(name, '')
  lines = written.split('|')
  if written.endswith('.txt'):
    path = files.local(written, name)
    if not path.is_file():
      raise ValueError(f'{name} {path}: there is no such file')
    lines = path.read_text(encoding='utf-8').splitlines()
  return tuple(x for x in lines if x.strip())


def check(entries: Sequence[str]) -> None:
  """Raises ValueError for an entry that cannot be parsed, or a name twice."""
  names = [parse(text).name for text in entries]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'eval_sets: the name {name!r} stands twice')


def open_pairs(
  path: str,
  column_names: Sequence[str] = sources.COLUMNS,
  data_dir: str = '',
) -> sources.Pairs:
  """Opens pictures with captions.

  Args:
    path: a folder of pictures with a table, see `sources.open_folder`; a folder
      of WebDataset's tars; one tar, with `*` in its name several; or
      `tfds:NAME:SPLIT`, a prepared dataset of TFDS.
    column_names: the columns of a table, the picture's path and the caption.
    data_dir: where TFDS has its datasets; empty: its own place.

  Raises:
    ValueError: it is none of these, damaged, or no pair is left.
  """
  if text_tfds.is_named(path):
    # Importing TFDS takes seconds.
    from mrl_jax.data.pairs import tfds

    return tfds.open_split(path, column_names[1], data_dir)
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
      f'tars (*{_TAR}), or {text_tfds.PREFIX}NAME:SPLIT'
    )
  if tars := sorted(folder.glob(f'*{_TAR}')):
    return sources.open_tars(tars)
  return sources.open_folder(folder, column_names=column_names)


class PairSet(NamedTuple):
  """An evaluation set, open.

  Attributes:
    entry: what `eval_sets` says of it.
    source: the pictures: `Pairs`, or images with classes.
    neighbors: images whose classes k-NN takes; None: k-NN is left out.
  """

  entry: Entry
  source: Source | sources.Pairs
  neighbors: Source | None = None

  @property
  def name(self) -> str:
    return self.entry.name

  @property
  def kind(self) -> str:
    return self.entry.kind

  def listing(self) -> dict[str, str]:
    """A text for each part of the set, which changes with its content."""
    found = dict(self.source.listing())
    if self.neighbors is not None:
      near = self.neighbors.listing()
      found |= {f'neighbors/{name}': text for name, text in near.items()}
    return found


def open_set(
  text: str, column_names: Sequence[str], data_dir: str = ''
) -> PairSet:
  """Opens an entry of `eval_sets`; raises ValueError, with its name, if not."""
  entry = parse(text)
  try:
    if entry.kind == 'retrieval':
      found = open_pairs(entry.path, column_names, data_dir)
      return PairSet(entry, found)
    opened = image_datasets.open_source(entry.path, entry.split, data_dir)
    near = None
    if entry.neighbors:
      near = image_datasets.open_source(entry.path, entry.neighbors, data_dir)
      if near.class_names != opened.class_names:
        raise ValueError(f'{entry.neighbors} has other classes')
  except ValueError as error:
    raise ValueError(f'eval_sets {text!r}: {error}') from None
  return PairSet(entry, opened, near)
