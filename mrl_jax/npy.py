"""Writing a .npy file row by row, however many rows there turn out to be."""

import os
import pathlib

import numpy as np


class RowWriter:
  """Appends rows to a .npy file; nothing but the rows at hand is in memory.

  The count goes into the header at the end: numpy pads headers so that the
  first axis can grow in place.
  """

  def __init__(self, path: pathlib.Path):
    self._file = open(path, 'wb')  # noqa: SIM115 (closed in __exit__)
    self._count = 0
    self._header_size = 0

  def __enter__(self) -> 'RowWriter':
    return self

  def __exit__(self, error_type, *error) -> None:
    if error_type is None and self._header_size:
      self._file.seek(0)
      self._write_header()
      self._file.flush()
      os.fsync(self._file.fileno())
    self._file.close()

  def append(self, rows: np.ndarray) -> None:
    """Rows of one dtype and one shape but for the first axis."""
    rows = np.ascontiguousarray(rows)
    if not self._header_size:
      self._dtype, self._row_shape = rows.dtype, rows.shape[1:]
      self._write_header()
      self._header_size = self._file.tell()
    if (rows.dtype, rows.shape[1:]) != (self._dtype, self._row_shape):
      raise ValueError(
        f'rows of {rows.dtype} {rows.shape[1:]} after {self._dtype} '
        f'{self._row_shape}'
      )
    rows.tofile(self._file)
    self._count += len(rows)

  def _write_header(self) -> None:
    np.lib.format.write_array_header_1_0(
      self._file,
      {
        'descr': np.lib.format.dtype_to_descr(self._dtype),
        'fortran_order': False,
        'shape': (self._count, *self._row_shape),
      },
    )
