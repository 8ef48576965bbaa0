"""Files that a reader never sees half of."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
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


def write_json(path: pathlib.Path, value: Any) -> None:
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2) + '\n')


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
