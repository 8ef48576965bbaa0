"""The exported embeddings of a split: two .npy files and a manifest."""

import hashlib
import os
import pathlib
import re
from typing import Any, BinaryIO

import numpy as np

from mrl_jax.workdir import checksums
from mrl_jax.workdir import npy


def paths(folder: pathlib.Path, split: str) -> tuple[pathlib.Path, ...]:
  """Of a split's embeddings, labels and manifest."""
  stem = split
  if not re.fullmatch(r'[\w.+-]+', split):
    # TFDS splits may hold brackets; train[:50%] is not train[50%:].
    digest = hashlib.sha256(split.encode()).hexdigest()[:6]
    stem = re.sub(r'[^\w.+-]+', '_', split).strip('_') + f'-{digest}'
  return tuple(folder / f'{stem}{end}' for end in ('-x.npy', '-y.npy', '.json'))


def load(
  folder: pathlib.Path, split: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
  """The embeddings [N, D] (a float32 memmap), int32 labels [N] and manifest.

  The files are read once to check them, see `checksums`.

  Raises ValueError if a file is missing, is not as it was written, or disagrees
  with the others.
  """
  x_path, y_path, manifest_path = paths(folder, split)
  for path in (manifest_path, x_path, y_path):
    if not path.exists():
      raise ValueError(f'{path} is not there: run --mode=embed first')
  sealed = checksums.read(manifest_path, 'delete it and run --mode=embed')
  sealed.check(x_path.name, y_path.name)
  manifest = sealed.record
  try:
    embedding_ND, label_N = npy.load(x_path, mmap=True), npy.load(y_path)
  except (ValueError, OSError) as error:
    raise ValueError(
      f'{x_path} or its labels cannot be read ({error}): delete it and run '
      '--mode=embed'
    ) from error
  count, dim = manifest.get('count'), manifest.get('dim')
  found = [(x.shape, x.dtype.name) for x in (embedding_ND, label_N)]
  if found != [((count, dim), 'float32'), ((count,), 'int32')]:
    raise ValueError(
      f'{manifest_path} says {count} float32 embeddings of width {dim} and '
      f'int32 labels, but the arrays are {found}: delete it and run '
      '--mode=embed'
    )
  return embedding_ND, label_N, manifest


class RowWriter:
  """Appends rows to a .npy file; nothing but the rows at hand is in memory.

  The count goes into the header at the end: numpy pads headers so that the
  first axis can grow in place.
  """

  def __init__(self, path: str | os.PathLike):
    self._file = open(path, 'wb')  # noqa: SIM115 (closed in __exit__)
    self._count = 0
    self._dtype = self._row_shape = None

  def __enter__(self) -> 'RowWriter':
    return self

  def __exit__(self, error_type, *error) -> None:
    with self._file:
      if error_type is None and self._dtype is not None:
        self._write_header()

  def append(self, rows: np.ndarray) -> None:
    """Rows of one dtype and one shape but for the first axis."""
    if self._dtype is None:
      self._dtype, self._row_shape = rows.dtype, rows.shape[1:]
      self._write_header()
    if (rows.dtype, rows.shape[1:]) != (self._dtype, self._row_shape):
      raise ValueError(
        f'rows of {rows.dtype} {rows.shape[1:]} after {self._dtype} '
        f'{self._row_shape}'
      )
    np.ascontiguousarray(rows).tofile(self._file)
    self._count += len(rows)

  def _write_header(self) -> None:
    shape = (self._count, *self._row_shape)
    write_header(self._file, self._dtype, shape)


def write_header(
  file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
  """Of a .npy file, at its start."""
  file.seek(0)
  descr = np.lib.format.dtype_to_descr(dtype)
  np.lib.format.write_array_header_1_0(
    file, {'descr': descr, 'fortran_order': False, 'shape': shape}
  )
