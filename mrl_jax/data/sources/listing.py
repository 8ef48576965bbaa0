"""What lies in a folder, without the litter of systems and file managers."""

from collections.abc import Iterator, Sequence
import os
import pathlib

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
# Names that an error lists.
_LISTED = 10


def folder_names(path: pathlib.Path) -> tuple[str, ...]:
  """The names of the folders in a folder, sorted, without those passed over."""
  return tuple(sorted(entry.name for entry in scan(path) if is_folder(entry)))


def file_names(path: pathlib.Path) -> tuple[str, ...]:
  """The names of the files in a folder, sorted, without those passed over."""
  names = (entry.name for entry in scan(path) if not is_folder(entry))
  return tuple(sorted(names))


def scan(path: pathlib.Path | str) -> list[os.DirEntry]:
  """The entries of a folder, without those passed over."""
  try:
    with os.scandir(path) as entries:
      return [entry for entry in entries if not _is_passed_over(entry)]
  except OSError as error:
    raise ValueError(
      f'{shown(path)} cannot be read: {error.strerror}'
    ) from error


def _is_passed_over(entry: os.DirEntry) -> bool:
  name = entry.name.lower()
  if name.startswith('.'):
    return True
  return name in (LITTER_FOLDERS if is_folder(entry) else LITTER_FILES)


def is_folder(entry: os.DirEntry) -> bool:
  """Whether it is a folder, or a link to one."""
  try:
    return entry.is_dir()
  except OSError:  # A link to itself.
    return False


def identity(folder: pathlib.Path) -> tuple[int, int]:
  """Of a folder, by whatever link it is reached."""
  status = os.stat(folder)
  return status.st_dev, status.st_ino


def walk(
  root: pathlib.Path, class_name: str, above: Sequence[tuple[int, int]]
) -> Iterator[str]:
  """The files below a class folder, as paths relative to `root`."""
  waiting = [(class_name, (*above,))]
  while waiting:
    folder, above = waiting.pop()
    here = identity(root / folder)
    if here in above:
      raise ValueError(
        f'{shown(root / folder)} is a link to a folder that it lies in, a '
        'circle: remove the link'
      )
    for entry in scan(root / folder):
      name = os.path.join(folder, entry.name)
      if is_folder(entry):
        waiting.append((name, (*above, here)))
      else:
        yield name


def shown(name: str | os.PathLike) -> str:
  """A name or path as one line of printable text, whatever its bytes are."""
  return ''.join(
    c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(name)
  )


def first(names: Sequence[str], count: int = _LISTED) -> str:
  """The first of the names, and how many more there are."""
  more = len(names) - count
  return ', '.join(names[:count]) + (f' and {more:,} more' if more > 0 else '')
