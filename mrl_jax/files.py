"""Files that a reader never sees half of."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import shutil
from typing import Any

import msgspec


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
    temporary.write_text(text)


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
    ValueError: the file is not JSON, or not of the schema. The line names the
      file and the field.
  """
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    if missing is None:
      raise
    return missing
  return parse_json(data, str(path), schema)


def parse_json(data: bytes, name: str, schema: Any = dict[str, Any]) -> Any:
  """`read_json` of bytes; errors name them `name`."""
  try:
    return msgspec.json.decode(data, type=schema)
  # A ValidationError is a DecodeError, too.
  except msgspec.ValidationError as error:
    raise ValueError(f'{name} is not as expected: {error}') from None
  except (msgspec.DecodeError, ValueError) as error:
    raise ValueError(f'{name} is not JSON: {error}') from None
  except RecursionError:
    raise ValueError(f'{name} is not JSON: it is nested too deeply') from None
