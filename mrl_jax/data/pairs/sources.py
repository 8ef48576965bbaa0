"""Pictures with captions: a folder with a table, or WebDataset's tars."""

from collections.abc import Iterable, Sequence
import copy
import os
import pathlib
import tarfile
from typing import NamedTuple, Protocol

import xxhash

from mrl_jax.data.images import formats
from mrl_jax.data.sources import directory
from mrl_jax.data.sources.example import Example
from mrl_jax.data.text import columns
from mrl_jax.workdir import files

# The names that Hugging Face's `imagefolder` gives a table and its columns.
TABLE = 'metadata'
COLUMNS = ('file_name', 'text')
_BLOCK = tarfile.BLOCKSIZE


class Stored(Protocol):
  """An encoded image somewhere; `key` is a name for people."""

  @property
  def key(self) -> str: ...

  def read(self) -> bytes: ...


class Picture(NamedTuple):
  """Where an encoded image is: a file, or `size` bytes of it from `start` on.

  `key` is a name for people; a size of -1 stands for the whole file.
  """

  path: pathlib.Path
  key: str
  start: int = 0
  size: int = -1

  def read(self) -> bytes:
    """The encoded image."""
    with open(self.path, 'rb') as file:
      file.seek(self.start)
      return file.read(self.size)


class Pairs:
  """Pictures and the captions of each, as a `Source` of images.

  The label of an example is the number of its picture, whose captions are
  `captions[label]`.

  Attributes:
    captions: the captions of each picture, one at least.
    left_out: a line for each kind of what was left out, with its number and the
      first ten: captions without picture, pictures without caption.
  """

  name, version = 'pairs', ''
  class_names: tuple[str, ...] = ()

  def __init__(
    self,
    pictures: Sequence[Stored],
    captions: Sequence[Sequence[str]],
    *,
    folder: str | os.PathLike,
    left_out: Sequence[str] = (),
    parts: dict[str, str] | None = None,
  ):
    """Takes pictures and captions in one order; `parts` is their `listing`."""
    self.folder = str(folder)
    self.captions = tuple(map(tuple, captions))
    self.left_out = tuple(left_out)
    self.num_classes = len(pictures)
    self._pictures, self._first = pictures, 0
    self._parts = parts or {}

  def __len__(self) -> int:
    return len(self._pictures)

  def read(self, index: int) -> Example:
    picture = self._pictures[index]
    label = self._first + index
    return Example(picture.read(), label, picture.key, as_seen=True)

  def listing(self) -> dict[str, str]:
    """A text for each file of captions, and for the pictures.

    They change with the captions, and with the pictures' names and sizes.
    """
    return self._parts

  def part(self, start: int, stop: int) -> 'Pairs':
    """The examples from `start` up to `stop`, with the same labels."""
    part = copy.copy(self)
    part._pictures = self._pictures[start:stop]
    part._first = self._first + start
    return part


def open_folder(
  path: str | os.PathLike,
  *,
  table: str | os.PathLike = '',
  column_names: Sequence[str] = COLUMNS,
) -> Pairs:
  """Opens a folder of pictures with a table of their captions.

  Args:
    path: the folder; pictures may lie in folders of it.
    table: a file that `columns.read` takes, whose rows are a picture's path in
      the folder and a caption, or in JSONL and Parquet a list of captions.
      Several rows may name one picture. Without: `metadata.jsonl`, `.csv`,
      `.tsv` or `.parquet` in the folder.
    column_names: the columns of the path and of the caption.

  Raises:
    ValueError: there is no table, it is damaged, or no pair is left.
  """
  folder = files.local(path, 'pairs').resolve()
  table = pathlib.Path(table) if table else _table(folder)
  captions: dict[str, list[str]] = {}
  for name, found in zip(*columns.read(table, list(column_names)), strict=True):
    several = found if isinstance(found, list) else [found]
    texts = [x for x in several if isinstance(x, str) and x.strip()]
    captions.setdefault(os.path.normpath(str(name)), []).extend(texts)
  extensions = formats.extensions()
  there = sorted(
    os.path.relpath(name, folder.name)
    for name in directory.walk(folder.parent, folder.name)
    if os.path.splitext(name)[1].lower() in extensions
  )
  pairs = [(Picture(folder / x, x), captions.get(x, [])) for x in there]
  orphans = sorted(captions.keys() - {*there})
  kept = [x for x in there if captions.get(x)]
  sizes = directory.sizes(folder, kept)
  parts = columns.listing(table) | {
    'pictures': directory.summary(folder, [*zip(kept, sizes, strict=True)])
  }
  return join(pairs, orphans, folder, parts)


def open_tars(paths: Sequence[str | os.PathLike]) -> Pairs:
  """Opens tars of WebDataset: files of one name are an example.

  A picture has its caption in a `.txt`, or in a `.json` as `caption`, a text or
  a list of texts. Raises ValueError for a tar that is damaged or cut short, and
  if no pair is left.
  """
  pairs, orphans, parts = [], [], {}
  for path in (files.local(x, 'pairs') for x in paths):
    found, digest = _members(path), xxhash.xxh3_64()
    for key, (picture, captions) in found.items():
      where = picture and (picture.start, picture.size)
      digest.update(f'{key}\n{where}\n{captions}\n'.encode())
      if picture is None:
        orphans.append(f'{path.name}/{key}')
      else:
        pairs.append((picture, captions))
    parts[path.name] = f'{path.stat().st_size} bytes {digest.hexdigest()}'
  folder = pathlib.Path(paths[0]).parent if paths else pathlib.Path()
  return join(pairs, orphans, folder, parts)


def _table(folder: pathlib.Path) -> pathlib.Path:
  names = [f'{TABLE}{suffix}' for suffix in columns.SUFFIXES]
  found = [folder / name for name in names if (folder / name).is_file()]
  if len(found) != 1:
    raise ValueError(
      f'pairs {folder}: has {len(found)} tables of captions: must have one of '
      f'{", ".join(names)}'
    )
  return found[0]


def join(
  pairs: Iterable[tuple[Stored, list[str]]],
  orphans: Sequence[str],
  folder: str | os.PathLike,
  parts: dict[str, str],
) -> Pairs:
  """Pairs of pictures and their captions; counts and lists what has no other.

  `orphans` are names of captions without picture. Raises ValueError if no pair
  is left.
  """
  pairs = list(pairs)
  kept = [pair for pair in pairs if pair[1]]
  bare = [picture.key for picture, captions in pairs if not captions]
  left_out = [
    f'{len(names):,} {what}: {directory.first(names)}'
    for names, what in (
      (orphans, 'captions without picture'),
      (bare, 'pictures without caption'),
    )
    if names
  ]
  if not kept:
    raise ValueError('; '.join([f'pairs {folder}: none is left', *left_out]))
  return Pairs(
    *zip(*kept, strict=True), folder=folder, left_out=left_out, parts=parts
  )


def _members(
  path: pathlib.Path,
) -> dict[str, tuple[Picture | None, list[str]]]:
  """The picture and the captions of each example of a tar, by its name."""
  extensions, found = formats.extensions(), {}
  try:
    with tarfile.open(path, 'r:') as tar:
      for member in tar:
        key, _, ending = member.name.rpartition('/')[2].partition('.')
        key = f'{member.name.rpartition("/")[0]}/{key}'.lstrip('/')
        ending = '.' + ending.lower()
        if not member.isfile() or not key:
          continue
        picture, captions = found.get(key, (None, []))
        if ending in extensions:
          name = f'{path.name}/{member.name}'
          picture = Picture(path, name, member.offset_data, member.size)
        elif ending in ('.txt', '.json'):
          data = tar.extractfile(member).read()
          captions = captions + _captions(
            f'{path}, {member.name}', ending, data
          )
        found[key] = picture, captions
      end = tar.offset
  except (tarfile.TarError, EOFError, OSError) as error:
    raise ValueError(f'{path}: is damaged or cut short: {error}') from None
  # A tar ends in blocks of zeros; tarfile stops silently at other ends, too.
  with open(path, 'rb') as file:
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
      raise ValueError(f'{path}: is damaged or cut short at byte {end:,}')
  return found


def _captions(name: str, ending: str, data: bytes) -> list[str]:
  if ending == '.txt':
    try:
      found = data.decode()
    except UnicodeDecodeError:
      raise ValueError(f'{name}: is not UTF-8') from None
  else:
    found = files.parse_json(data, name).get('caption', [])
  several = found if isinstance(found, list) else [found]
  return [x.strip() for x in several if isinstance(x, str) and x.strip()]
