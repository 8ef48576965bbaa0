"""Files that a reader never sees half of."""

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
  """The path of a local file or folder, with `~` expanded.

  Raises ValueError for a URL, which pathlib would take for a folder of that
  name; `name` says in it what the path is of.
  """
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]+://', os.fspath(path)):
    raise ValueError(
      f'{name} {path}: URLs are not read or written: give a local path, such '
      'as one where the bucket is mounted'
    )
  return pathlib.Path(path).expanduser()


def check_space(folder: pathlib.Path, size: int, name: str) -> None:
  """Raises OSError if `folder`'s disk has less than `size` bytes free.

  `name` says in it what takes them.
  """
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


def remove_temporary(folder: pathlib.Path) -> None:
  """Removes what killed runs left of `replacing` in a folder.

  Nothing else may be writing there.
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
  """The content of a JSON file, checked against a schema.

  Args:
    path: the file.
    schema: any type that msgspec knows: a `msgspec.Struct`, or a plain type
      such as `dict[str, int]`. Left out: any JSON object.
    missing: returned where there is no file; None: FileNotFoundError.

  Raises:
    ValueError: the file cannot be read, is not JSON, or not of the schema. The
      line names the file and the field.
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
  """`read_json` of bytes; errors name them `name`.

  UTF-8 with or without a byte-order mark, no NaN, and no key twice.
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
  """A value read from JSON, by a schema that was not known when it was read."""
  try:
    return msgspec.convert(value, schema)
  except msgspec.ValidationError as error:
    raise ValueError(f'{name} is not as expected: {error}') from None


def _refuse_repeated_keys(data: bytes) -> None:
  """msgspec takes the last of two, and does not say so."""

  def check(pairs):
    keys = [key for key, _ in pairs]
    if len({*keys}) < len(keys):
      key = next(key for key in keys if keys.count(key) > 1)
      raise ValueError(f'the key {key!r:.80} comes twice')

  json.loads(data.removeprefix(codecs.BOM_UTF8), object_pairs_hook=check)
