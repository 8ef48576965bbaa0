"""The vectors of a teacher, beside the texts that they are of."""

import numpy as np

from mrl_jax.workdir import files
from mrl_jax.workdir import npy

# Vectors that are looked at at a time.
_BLOCK = 4096


def open_vectors(path: str, number: int, where: str) -> np.ndarray:
  """Opens a .npy file of a vector for each text, a map of its rows.

  Raises ValueError, which cites `where`, for another number of rows, a shape
  or numbers that are no vectors, or ones that are not finite.
  """
  try:
    found_ND = npy.load(files.local(path, 'teacher'), mmap=True)
  except OSError as error:
    raise ValueError(f'teacher {path}: cannot be read: {error}') from None
  if found_ND.ndim != 2 or found_ND.dtype.kind != 'f' or not found_ND.shape[1]:
    raise ValueError(
      f'teacher {path}: holds {found_ND.dtype} of shape {found_ND.shape}, and '
      'must hold floats, a row for each text'
    )
  if len(found_ND) != number:
    raise ValueError(
      f'teacher {path}: has {len(found_ND):,} rows, and {where} {number:,}'
    )
  for start in range(0, number, _BLOCK):
    is_finite_N = np.isfinite(found_ND[start : start + _BLOCK]).all(1)
    if not is_finite_N.all():
      row = start + int(is_finite_N.argmin())
      raise ValueError(f'teacher {path}: row {row} is not finite')
  return found_ND
