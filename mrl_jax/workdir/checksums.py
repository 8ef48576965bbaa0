"""Checks by checksums (xxh3) that files are as they were written.

    python -m mrl_jax.workdir.checksums FOLDER …

A sealed JSON file holds the size and checksum of each file that it describes,
and a checksum of its own text:

    {…, "files": {"train-x.npy": {"bytes": 5248, "xxh3": "…"}},
     "checksum": "xxh3:…"}

They find damage and mix-ups, and do not protect against forgery.
"""

import argparse
from collections.abc import Iterable, Mapping
import json
import os
import pathlib
from typing import Any, NamedTuple
import warnings

import msgspec
import xxhash

from mrl_jax.terminal import ending
from mrl_jax.workdir import files as files_lib

# Bytes read at a time, as much as a processor's cache holds.
_BLOCK = 256 << 10
# Checksums of files of this size are kept until something writes to them.
_LARGE = 64 << 20
_OWN, _FORM = 'checksum', 'xxh3:'
_known: dict[tuple[int, ...], 'Checksum'] = {}


class Checksum(msgspec.Struct, forbid_unknown_fields=True):
  """The size of a file, and the xxh3 of its bytes as 16 hex digits."""

  bytes: int
  xxh3: str


class Sealed(NamedTuple):
  """A JSON file that `write` wrote, as `read` returns it.

  `record` is its content without the checksums, which are in `files` by the
  names of the files beside it. None there means that it was written before
  there were checksums, and nothing can be checked. Errors end with `remedy`.
  """

  path: pathlib.Path
  record: dict[str, Any]
  files: dict[str, Checksum] | None
  remedy: str

  def check(self, *names: str) -> None:
    """Raises ValueError if one of these files is not as it was written."""
    for name in names if self.files is not None else ():
      path = self.path.parent / name
      if name not in self.files:
        raise ValueError(
          f'{path} is not among the files that {self.path} speaks of: '
          f'{self.remedy}'
        )
      if reason := _difference(path, self.files[name]):
        raise ValueError(f'{path} {reason}: {self.remedy}')

  def check_folder(self) -> None:
    """Checks every file, and that there is no other beside hidden ones."""
    if self.files is None:
      return
    self.check(*self.files)
    there = {
      path.name
      for path in self.path.parent.iterdir()
      if path.is_file() and not path.name.startswith('.')
    }
    if extra := sorted(there - {self.path.name, *self.files}):
      raise ValueError(
        f'{self.path.parent / extra[0]} was not written with the files beside '
        f'it, says {self.path.name}: move it elsewhere, or {self.remedy}'
      )


def of(path: str | os.PathLike) -> Checksum:
  """Computes the checksum of a file, which is read once, in blocks.

  This process keeps the checksum of a large file until something writes to it.
  """
  with open(path, 'rb', buffering=0) as file:
    status = os.fstat(file.fileno())
    key = (status.st_dev, status.st_ino, status.st_size)
    key += (status.st_mtime_ns, status.st_ctime_ns)
    if key in _known:
      return _known[key]
    digest, block, count = xxhash.xxh3_64(), memoryview(bytearray(_BLOCK)), 0
    while size := file.readinto(block):
      digest.update(block[:size])
      count += size
  found = Checksum(count, digest.hexdigest())
  if count >= _LARGE:
    _known[key] = found
  return found


def write(
  path: pathlib.Path,
  record: Mapping[str, Any],
  files: Iterable[pathlib.Path] = (),
) -> None:
  """Writes a sealed JSON file, whole or not at all.

  `files` are those it describes, in the same folder and written already.
  """
  record = dict(record)
  if files := sorted(files):
    record['files'] = {
      file.relative_to(path.parent).as_posix(): msgspec.to_builtins(of(file))
      for file in files
    }
  text = lambda own: json.dumps(record | {_OWN: own}, indent=2) + '\n'
  own = xxhash.xxh3_64_hexdigest(text(_FORM).encode())
  files_lib.write_text(path, text(_FORM + own))


def read(path: pathlib.Path, remedy: str) -> Sealed:
  """Reads a JSON file that `write` wrote, or one without checksums.

  A warning says that the latter cannot be checked. `Sealed.check` checks the
  files that it describes. `remedy` says what to do about a mismatch, as 'delete
  it and run --mode=embed'. Raises FileNotFoundError, or ValueError if it is not
  JSON, or not as it was written.
  """
  data = path.read_bytes()
  marks = (f'"{_OWN}"'.encode() in data, f'"{_FORM}'.encode() in data)
  try:
    record = files_lib.parse_json(data, str(path))
  except ValueError as error:
    raise ValueError(f'{error}: {remedy}') from None
  if not any(marks):
    return unchecked(path, record, remedy)
  own = str(record.pop(_OWN, '')).removeprefix(_FORM).encode()
  blank = data.replace(own, b'') if own else b''
  if not all(marks) or xxhash.xxh3_64_hexdigest(blank).encode() != own:
    raise ValueError(f'{path} is not as it was written: {remedy}')
  files = msgspec.convert(record.pop('files', {}), dict[str, Checksum])
  return Sealed(path, record, files, remedy)


def unchecked(
  path: pathlib.Path, record: dict[str, Any], remedy: str
) -> Sealed:
  """Makes a `Sealed` of files without checksums; a warning says so, once."""
  warnings.warn(
    f'{path} was written without checksums: damage to what it holds and speaks '
    'of cannot be noticed',
    stacklevel=3,
  )
  return Sealed(path, record, None, remedy)


def check_beside(
  path: pathlib.Path, sealed_path: pathlib.Path, remedy: str
) -> None:
  """Checks a file that a sealed one beside it may describe.

  Nothing is checked where there is no sealed file, or it describes others.
  Raises ValueError on a mismatch.
  """
  if sealed_path.is_file() and _is_sealed(sealed_path):
    sealed = read(sealed_path, remedy)
    sealed.check(*({path.name} & sealed.files.keys()))


def _difference(path: pathlib.Path, expected: Checksum) -> str:
  """How a file differs from what was written; '' if it does not."""
  try:
    # The size first: no long reading of a file that is cut short.
    size = path.stat().st_size
    found = of(path) if size == expected.bytes else None
  except FileNotFoundError:
    return 'is missing'
  if found is None:
    return f'has {size:,} bytes instead of the {expected.bytes:,} written'
  return '' if found == expected else 'is not as it was written'


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.workdir.checksums',
    description='Checks that the files of folders are as they were written.',
  )
  parser.add_argument('folders', nargs='+', type=pathlib.Path)
  with ending.in_one_line():
    for folder in parser.parse_args().folders:
      _check(folder)


def _check(folder: pathlib.Path) -> None:
  """Checks a folder, and prints how many files and bytes are as written."""
  if not folder.is_dir():
    raise ValueError(f'{folder}: there is no such folder')
  paths = sorted(path for path in folder.glob('*.json') if _is_sealed(path))
  if not paths:
    raise ValueError(f'{folder} has no JSON file with checksums in it')
  found = {}
  for path in paths:
    sealed = read(path, 'what wrote the folder has to write it again')
    sealed.check(*sealed.files)
    found |= sealed.files | {path.name: of(path)}
  size = sum(checksum.bytes for checksum in found.values())
  print(f'{folder}: {len(found)} files, {size:,} bytes, are as written')


def _is_sealed(path: pathlib.Path) -> bool:
  data = path.read_bytes()
  return f'"{_OWN}"'.encode() in data or f'"{_FORM}'.encode() in data


if __name__ == '__main__':
  main()
