"""Reads .npy and .npz files: what was saved, or one line that says why not."""

from collections.abc import Collection
import math
import os
import pathlib

import numpy as np


def load(path: str | os.PathLike, *, mmap: bool = False) -> np.ndarray:
  """The array of a .npy file; with `mmap`, a read-only map of the file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not a .npy of plain numbers, its header is damaged,
      or it is longer or shorter than its header says. The line names the file.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    if path.exists():
      raise ValueError(f'{path} is not a file')
    raise FileNotFoundError(f'{path} does not exist')
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
  """The arrays of a .npz file, by their names.

  Args:
    path: the file.
    names: arrays that must be among them.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not a .npz of plain numbers, is damaged, or lacks an
      array. The line names the file.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    if path.exists():
      raise ValueError(f'{path} is not a file')
    raise FileNotFoundError(f'{path} does not exist')
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
  # What is no .npy inside of a zip comes as bytes.
  if wrong := [n for n, x in arrays.items() if not isinstance(x, np.ndarray)]:
    raise ValueError(f'{path}: {wrong[0]} is not an array')
  return arrays


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
