"""Reads and writes .npy files; a damaged one is refused in one line."""

from collections.abc import Callable, Collection, Sequence
import math
import os
import pathlib
from typing import Any

import numpy as np

from mrl_jax.workdir import checksums

# Bytes that are moved at a time.
_CHUNK = 64 << 20


def load(path: str | os.PathLike, *, mmap: bool = False) -> np.ndarray:
  """Loads the array of a .npy file; with `mmap`, a read-only map of it.

  Raises FileNotFoundError, or ValueError, naming the file, if it is not a .npy
  of plain numbers, or longer or shorter than its header says.
  """
  path = _existing(path)
  try:
    with open(path, 'rb') as file:
      shape, fortran, dtype = _header(file)
      start = file.tell()
      size = os.fstat(file.fileno()).st_size
  # numpy parses the header as Python source: a damaged one raises SyntaxError,
  # TokenError, OverflowError and others.
  except Exception as error:
    if isinstance(error, OSError):
      raise
    raise ValueError(f'{path} is not a .npy file: {_line(error)}') from None
  if dtype.hasobject:
    raise ValueError(f'{path} holds Python objects: must be numbers')
  expected = start + math.prod(shape) * dtype.itemsize
  if size != expected:
    raise ValueError(
      f'{path} has {size:,} bytes, and {dtype} of shape {shape} needs '
      f'{expected:,}: the file is cut short or damaged'
    )
  if not mmap or not math.prod(shape):
    return np.load(path, allow_pickle=False)
  return np.memmap(
    path,
    dtype,
    mode='r',
    offset=start,
    shape=shape,
    order='F' if fortran else 'C',
  )


def load_npz(
  path: str | os.PathLike, names: Collection[str] = ()
) -> dict[str, np.ndarray]:
  """Loads the arrays of a .npz file, by their names.

  Raises FileNotFoundError, or ValueError, naming the file, if it is not a .npz
  of plain numbers, is damaged, or lacks an array of `names`.
  """
  path = _existing(path)
  try:
    # Opened here, since numpy does not close what it cannot read.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError('it holds one array')
      arrays = {name: file[name] for name in file}
  # zipfile, zlib and the headers' parser raise many types; a damaged header may
  # ask for more memory than there is.
  except Exception as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise
    raise ValueError(f'{path} is not a sound .npz: {_line(error)}') from None
  if missing := [name for name in names if name not in arrays]:
    raise ValueError(f'{path} has no array {", ".join(missing)}')
  # A member of the zip that is no .npy comes as bytes.
  if wrong := [n for n, x in arrays.items() if not isinstance(x, np.ndarray)]:
    raise ValueError(f'{path}: {wrong[0]} is not an array')
  return arrays


def _existing(path: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    if path.exists():
      raise ValueError(f'{path} is not a file')
    raise FileNotFoundError(f'{path} does not exist')
  return path


def _header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
  version = np.lib.format.read_magic(file)
  read = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in read:
    raise ValueError(f'version {version} of the format')
  shape, fortran, dtype = read[version](file)
  if any(n < 0 for n in shape):
    raise ValueError(f'shape {shape}')
  return shape, fortran, dtype


def _line(error: BaseException) -> str:
  text = ' '.join(str(error).split())[:200]
  return text or type(error).__name__


class Writer:
  """Appends rows to a .npy file; only the rows at hand are in memory.

  The file holds [N, …], or [G, N, …] with `groups`. It is written by calls and
  not through a memmap, so that a full disk raises OSError.
  """

  def __init__(
    self, path: str | os.PathLike, *, groups: int | None = None, most: int = 0
  ):
    """Overwrites the file.

    With `groups`, G, each block appended is [G, B, …], and there can be at most
    `most` rows.
    """
    self._file = open(path, 'w+b')  # noqa: SIM115 (closed in __exit__)
    self._groups, self._most = groups, most
    self._dtype = self._row_shape = None
    self._count = self._start = self._row_bytes = 0

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, error_type, *error) -> None:
    with self._file:
      if error_type is None and self._dtype is not None:
        self._close_gaps()
        self._write_header(self._count)

  def append(self, rows: np.ndarray) -> None:
    """Appends [B, …] or [G, B, …]; ValueError for another dtype or shape."""
    rows_GB = rows if self._groups else rows[None]
    if self._dtype is None:
      self._dtype, self._row_shape = rows.dtype, rows_GB.shape[2:]
      self._row_bytes = self._dtype.itemsize * math.prod(self._row_shape)
      self._write_header(self._most)
      self._start = self._file.tell()
    if (rows.dtype, rows_GB.shape[2:]) != (self._dtype, self._row_shape):
      raise ValueError(
        f'rows of {rows.dtype} {rows_GB.shape[2:]} after {self._dtype} '
        f'{self._row_shape}'
      )
    for g, rows_B in enumerate(rows_GB):
      self._file.seek(self._offset(g, self._most, self._count))
      np.ascontiguousarray(rows_B).tofile(self._file)
    self._count += rows_GB.shape[1]

  def _offset(self, g: int, length: int, row: int) -> int:
    """The place of a row of group g where each group has `length` rows."""
    return self._start + (g * length + row) * self._row_bytes

  def _close_gaps(self) -> None:
    """Moves the groups together where there are fewer than `most` rows."""
    size = self._count * self._row_bytes
    for g in range(1, self._groups or 1):
      source = self._offset(g, self._most, 0)
      target = self._offset(g, self._count, 0)
      for done in range(0, size if source != target else 0, _CHUNK):
        self._file.seek(source + done)
        data = self._file.read(min(_CHUNK, size - done))
        self._file.seek(target + done)
        self._file.write(data)
    self._file.truncate(self._offset(self._groups or 1, self._count, 0))

  def _write_header(self, count: int) -> None:
    # numpy pads headers, so that one with another count has the same length.
    shape = (count, *self._row_shape)
    self._file.seek(0)
    np.lib.format.write_array_header_1_0(
      self._file,
      {
        'descr': np.lib.format.dtype_to_descr(self._dtype),
        'fortran_order': False,
        'shape': (self._groups, *shape) if self._groups else shape,
      },
    )


def load_with_manifest(
  manifest_path: pathlib.Path,
  paths: Sequence[pathlib.Path],
  expected: Callable[[dict[str, Any]], list[tuple[tuple[int, ...], str]]],
  command: str,
) -> tuple[list[np.ndarray], dict[str, Any]]:
  """Loads the arrays beside a manifest; returns read-only maps, and its record.

  `checksums.write` wrote the manifest; the files are read once, to compare
  their checksums. `expected` returns the shape and dtype of each array by the
  record. Raises ValueError, which says to run `command`, if a file is missing,
  or is not as it was written, or not what the manifest says.
  """
  for path in (manifest_path, *paths):
    if not path.exists():
      raise ValueError(f'{path} is not there: {command} first')
  remedy = f'delete it and {command}'
  sealed = checksums.read(manifest_path, remedy)
  sealed.check(*(path.name for path in paths))
  arrays = []
  for path in paths:
    try:
      arrays.append(load(path, mmap=True))
    except (ValueError, OSError) as error:
      raise ValueError(f'{path} cannot be read ({error}): {remedy}') from error
  told = expected(sealed.record)
  found = [(array.shape, array.dtype.name) for array in arrays]
  if found != told:
    raise ValueError(
      f'{manifest_path} says {told}, but the arrays are {found}: {remedy}'
    )
  return arrays, sealed.record
