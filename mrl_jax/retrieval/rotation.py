"""An orthogonal rotation of the dims beyond the trained widths.

Exact search reads rows only as far as their bounds need, which pays where the
first dims hold most of a row's length. PCA of the dims from `start` on sorts
them so. Dot products at full width stay what they are, but for rounding, and
prefixes up to `start` are not touched; those between are refused.

    rotation = fit(sample_ND, start=256)
    save(rotation, 'rotation.npz')
    database = retrieval.prepare(database_MD, rotation=load('rotation.npz'))
"""

import dataclasses
import os
import pathlib
import zipfile

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval import projections

# The largest error of an orthogonal matrix's products, and rows sampled.
_TOLERANCE, _SAMPLE = 1e-4, 16384
# Rows rotated at a time.
_BLOCK = 16384


@dataclasses.dataclass(frozen=True)
class Rotation:
  """`row[start:] @ matrix_TT` in place of `row[start:]`.

  Raises ValueError unless `matrix_TT` is square and orthogonal to 1e-4.
  """

  start: int
  matrix_TT: np.ndarray

  def __post_init__(self):
    checks.whole(0)('start', self.start)
    matrix_TT = checks.as_floats('rotation', self.matrix_TT)
    if matrix_TT.ndim != 2 or len(set(matrix_TT.shape)) != 1:
      raise ValueError(f'rotation of shape {matrix_TT.shape}: must be [T, T]')
    object.__setattr__(self, 'matrix_TT', matrix_TT.astype(np.float32))
    matrix_TT = matrix_TT.astype(np.float64)
    error = np.abs(matrix_TT.T @ matrix_TT - np.eye(len(matrix_TT))).max()
    if not error <= _TOLERANCE:
      raise ValueError(
        f'rotation is not orthogonal: its transpose times itself differs from '
        f'the identity by {error:.2g}, must be at most {_TOLERANCE}'
      )

  @property
  def width(self) -> int:
    """The width of the rows."""
    return self.start + len(self.matrix_TT)

  def __call__(
    self, rows_Nd: np.ndarray | jax.Array, dtype: type = np.float64
  ) -> np.ndarray:
    """Rotated rows [N, width] of the same dtype; narrower ones as they are.

    Products are computed in `dtype`; in float64 equal rows remain equal. Raises
    ValueError for a width in (start, width), or beyond.
    """
    dim = rows_Nd.shape[1]
    if dim <= self.start:
      return rows_Nd
    if dim != self.width:
      raise ValueError(
        f'width {dim} of rotated rows: must be {self.width}, or at most '
        f'{self.start}, from where on they are rotated'
      )
    out_ND = np.array(rows_Nd)
    matrix_TT = self.matrix_TT.astype(dtype, copy=False)
    for first in range(0, len(out_ND), _BLOCK):
      tail_BT = out_ND[first : first + _BLOCK, self.start :]
      tail_BT[:] = tail_BT.astype(dtype) @ matrix_TT
    return out_ND


def fit(
  rows_MD: np.ndarray | jax.Array, start: int, *, seed: int = 0
) -> Rotation:
  """PCA, without centring, of at most 16,384 unit rows from dim `start` on.

  Raises ValueError unless 0 <= start < D, or for a row that is not finite.
  """
  rows_MD = checks.as_floats('rows', rows_MD)
  D = rows_MD.shape[-1]
  if rows_MD.ndim != 2 or not 0 <= start < D:
    raise ValueError(
      f'start {start}, rows of shape {rows_MD.shape}: must be [M, D], and '
      'start in [0, D)'
    )
  _, row_ND = prefixes.unit_sample(rows_MD, D, _SAMPLE, seed)
  return Rotation(start, projections.principal(row_ND[:, start:]).matrix_DW)


def save(rotation: Rotation, path: str | os.PathLike) -> None:
  """Writes a .npz file with `start` and `matrix`."""
  # Imported late: searches do without the packages that it needs.
  from mrl_jax.workdir import files

  with (
    files.replacing(pathlib.Path(path)) as temporary,
    open(temporary, 'wb') as file,
  ):
    np.savez(file, start=rotation.start, matrix=rotation.matrix_TT)


def load(path: str | os.PathLike) -> Rotation:
  """Reads what `save` wrote; raises ValueError, which names it, for others."""
  try:
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
      return Rotation(int(arrays['start']), arrays['matrix'])
  except (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    zipfile.BadZipFile,
  ) as error:
    raise ValueError(f'{path} holds no rotation: {error}') from None
