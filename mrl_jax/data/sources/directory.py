"""Lists directories, without the litter of systems and file managers."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import os
import pathlib
import time
from typing import Any
import unicodedata

import xxhash

# In lower case, as names are compared.
LITTER_FOLDERS = frozenset(
  [
    '@eadir',
    '__macosx',
    '__pycache__',
    'thumbnails',
    '_thumbnails',
    '_thumbs',
    '#recycle',
    '@recycle',
    '$recycle.bin',
    'system volume information',
    'lost+found',
  ]
)
LITTER_FILES = frozenset(
  [
    'thumbs.db',
    'ehthumbs.db',
    'ehthumbs_vista.db',
    'desktop.ini',
    'picasa.ini',
    'icon\r',
  ]
)
# Names that an error message lists before it only counts the others.
_LISTED = 10
_CHUNK = 256
# Bytes of the first file that a summary depends on.
_HEAD = 4096


def folder_names(path: pathlib.Path) -> tuple[str, ...]:
  """The names of the folders in a folder, sorted, without litter."""
  return tuple(sorted(entry.name for entry in _scan(path) if _is_folder(entry)))


def file_names(path: pathlib.Path) -> tuple[str, ...]:
  """The names of the files in a folder, sorted, without litter."""
  names = (entry.name for entry in _scan(path) if not _is_folder(entry))
  return tuple(sorted(names))


def walk(root: pathlib.Path, folder: str) -> Iterator[str]:
  """The files below a folder of `root`, as paths relative to `root`.

  Follows links. Raises ValueError for a link that leads back to a folder above.
  """
  ancestors = tuple(map(_identity, (root, *root.resolve().parents)))
  waiting = [(folder, ancestors)]
  while waiting:
    folder, above = waiting.pop()
    here = _identity(root / folder)
    if here in above:
      raise ValueError(
        f'{printable(root / folder)} is a link to a folder that it lies in, a '
        'circle: remove the link'
      )
    for entry in _scan(root / folder):
      name = os.path.join(folder, entry.name)
      if _is_folder(entry):
        waiting.append((name, (*above, here)))
      else:
        yield name


def in_threads(
  function: Callable[[Any], Any], items: Sequence[Any]
) -> Iterator[Any]:
  """Maps a function that may wait for the disk over `items`, in their order.

  It runs in threads once a chunk has mostly waited. Files that are in memory
  are read faster by one thread: Python's lock is what others would wait for.
  """
  waits = False
  with concurrent.futures.ThreadPoolExecutor() as pool:
    # In chunks, so that a large folder does not queue a future for each file.
    for start in range(0, len(items), _CHUNK):
      chunk = items[start : start + _CHUNK]
      if waits:
        yield from pool.map(function, chunk)
        continue
      wall, busy = time.perf_counter(), time.thread_time()
      results = [function(x) for x in chunk]
      wall, busy = time.perf_counter() - wall, time.thread_time() - busy
      waits = wall > 2 * busy
      yield from results


def sizes(root: pathlib.Path, names: Sequence[str]) -> list[int]:
  """The size in bytes of each of the files, paths relative to `root`.

  Raises ValueError for one that cannot be read, as a link to nothing.
  """
  try:
    return list(
      in_threads(lambda x: os.stat(os.path.join(root, x)).st_size, names)
    )
  except OSError as error:
    name = printable(error.filename or root)
    raise ValueError(f'{name} cannot be read: {error.strerror}') from error


def summary(
  root: pathlib.Path, sized: Sequence[tuple[str, int]], below: str = ''
) -> str:
  """A text `<count> files <digest>` that changes with files of `root`.

  The digest changes with their names below the folder `below`, their sizes and
  order, and with the first bytes of the first file, which tell folders apart
  whose files are all of the same names and sizes. Nothing else is read. `sized`
  has the path of each file, relative to `root`, and its size.
  """
  digest = xxhash.xxh3_64()
  for name, size in sized:
    path = pathlib.PurePath(name).relative_to(below).as_posix()
    line = f'{unicodedata.normalize("NFC", path)}\n{size}\n'
    digest.update(os.fsencode(line))
    if name == sized[0][0]:
      with open(root / name, 'rb') as file:
        digest.update(file.read(_HEAD))
  return f'{len(sized)} files {digest.hexdigest()}'


def printable(name: str | os.PathLike) -> str:
  """A name or path as one line of printable text, whatever its bytes are."""
  return ''.join(
    c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(name)
  )


def first(names: Sequence[str], count: int = _LISTED) -> str:
  """The first of the names, and how many more there are."""
  more = len(names) - count
  return ', '.join(names[:count]) + (f' and {more:,} more' if more > 0 else '')


def _scan(path: pathlib.Path) -> list[os.DirEntry]:
  try:
    with os.scandir(path) as entries:
      return [entry for entry in entries if not _is_litter(entry)]
  except OSError as error:
    raise ValueError(
      f'{printable(path)} cannot be read: {error.strerror}'
    ) from error


def _is_litter(entry: os.DirEntry) -> bool:
  name = entry.name.lower()
  if name.startswith('.'):
    return True
  return name in (LITTER_FOLDERS if _is_folder(entry) else LITTER_FILES)


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A link to itself.
    return False


def _identity(folder: pathlib.Path) -> tuple[int, int]:
  """Device and inode: the same by whatever link the folder is reached."""
  status = os.stat(folder)
  return status.st_dev, status.st_ino
