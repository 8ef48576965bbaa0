"""Writes files whole or not at all, and reads JSON by a schema."""

import codecs
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import re
import shutil
from typing import Any

import msgspec


def local(path: str | os.PathLike, name: str) -> pathlib.Path:
  """Returns the path of a local file or folder, with `~` expanded.

  Raises ValueError for a URL, which pathlib would take for a folder. The
  message calls the path `name`.
  """
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]+://', os.fspath(path)):
    raise ValueError(
      f'{name} {path}: URLs are not read or written: give a local path, such '
      'as one where the bucket is mounted'
    )
  return pathlib.Path(path).expanduser()


def check_space(folder: pathlib.Path, size: int, name: str) -> None:
  """Raises OSError if a disk lacks the `size` bytes that `name` takes."""
  free = shutil.disk_usage(folder).free
  if free < size:
    raise OSError(
      f'{folder}: {name} takes {size / 1e6:,.1f} MB, and the disk has '
      f'{free / 1e6:,.1f} MB free'
    )


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`, and renames it at the end.

  A reader sees the file that was there before, or the whole new one. On an
  exception the temporary file is removed, and the old one stays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  # Always the same name, so that the file of a killed run is overwritten.
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


def remove_temporary(folder: pathlib.Path) -> None:
  """Removes the temporary files of `replacing` that killed runs left.

  Nothing else may be writing to the folder.
  """
  for path in folder.glob('.*.tmp'):
    if path.is_file():
      path.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def write_json(path: pathlib.Path, value: Any) -> None:
  write_text(path, json.dumps(value, indent=2) + '\n')


def read_json(
  path: pathlib.Path, schema: Any = dict[str, Any], *, missing: Any = None
) -> Any:
  """Reads a JSON file, and checks it against a schema.

  The schema is a type that msgspec knows, by default any JSON object. `missing`
  is returned where there is no file; None raises FileNotFoundError. Raises
  ValueError, naming file and field, if the file cannot be read, is not JSON, or
  not of the schema.
  """
  try:
    data = pathlib.Path(path).read_bytes()
  except FileNotFoundError:
    if missing is None:
      raise
    return missing
  except NotADirectoryError:
    raise
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error.strerror}') from error
  return parse_json(data, str(path), schema)


def parse_json(data: bytes, name: str, schema: Any = dict[str, Any]) -> Any:
  """Parses JSON as `read_json` does; errors call it `name`.

  It must be UTF-8, with or without a byte-order mark, and must have no NaN and
  no key twice.
  """
  try:
    value = msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8), type=schema)
    _refuse_repeated_keys(data)
    return value
  # A ValidationError is a DecodeError, too.
  except msgspec.ValidationError as error:
    raise ValueError(f'{name} is not as expected: {error}') from None
  except (msgspec.DecodeError, ValueError) as error:
    raise ValueError(f'{name} is not JSON: {error}') from None
  except RecursionError:
    raise ValueError(f'{name} is not JSON: it is nested too deeply') from None


def checked(value: Any, name: str, schema: Any) -> Any:
  """Checks a value that was read from JSON against a schema."""
  try:
    return msgspec.convert(value, schema)
  except msgspec.ValidationError as error:
    raise ValueError(f'{name} is not as expected: {error}') from None


def _refuse_repeated_keys(data: bytes) -> None:
  """Raises ValueError for a repeated key, of which msgspec takes the last."""

  def check(pairs):
    keys = [key for key, _ in pairs]
    if len({*keys}) < len(keys):
      key = next(key for key in keys if keys.count(key) > 1)
      raise ValueError(f'the key {key!r:.80} comes twice')

  json.loads(data.removeprefix(codecs.BOM_UTF8), object_pairs_hook=check)
