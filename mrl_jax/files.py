"""Files that a reader never sees half of."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import shutil
from typing import Any


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`, and renames it at the end.

  A reader sees the file that was there before, or the whole new one. On an
  exception the temporary file goes, and the old one stays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  # One name, so that what a killed run left behind is overwritten.
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    yield temporary
    with open(temporary, 'rb') as file:
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary folder beside `path`, and renames it at the end.

  A reader sees a whole folder, or, for the moment between two renames where one
  was there before, none. On an exception the old one stays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.tmp')
  old = path.with_name(f'.{path.name}.old')
  if old.exists() and not path.exists():
    # A run was killed between the two renames.
    os.replace(old, path)
  for left_behind in (temporary, old):
    shutil.rmtree(left_behind, ignore_errors=True)
  temporary.mkdir()
  try:
    yield temporary
    for part in temporary.rglob('*'):
      if part.is_file():
        with open(part, 'rb') as file:
          os.fsync(file.fileno())
    if path.exists():
      os.replace(path, old)
    os.replace(temporary, path)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: pathlib.Path, text: str) -> None:
  with replacing(path) as temporary:
    temporary.write_text(text)


def write_json(path: pathlib.Path, value: Any) -> None:
  write_text(path, json.dumps(value, indent=2) + '\n')


def read_json(path: pathlib.Path, *, missing: Any = None) -> Any:
  """The parsed file; `missing`, unless it is None, where there is none.

  Raises ValueError, naming the file, if it is not a JSON object.
  """
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError:
    if missing is None:
      raise
    return missing
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}') from None
  if not isinstance(value, dict):
    raise ValueError(f'{path} is not a JSON object')
  return value
