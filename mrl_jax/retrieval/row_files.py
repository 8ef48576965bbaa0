"""Embeddings and labels in .npy files, from here or from anywhere else."""

import os
import pathlib
from typing import Any

import numpy as np

from mrl_jax import nesting
from mrl_jax.retrieval import inputs
from mrl_jax.workdir import checksums

# What to do about a file that is not as its manifest says.
_REMEDY = 'run --mode=embed again, or copy it and its manifest again'


def load_rows(path: str | os.PathLike) -> tuple[np.memmap, dict[str, Any]]:
  """Float embeddings [N, D], left on disk, and their manifest if there is one.

  The manifest of `X.npy` is `X.json`, that of `X-x.npy` also; without one it is
  empty. Raises ValueError if the file is not such an array, disagrees with the
  manifest's count or dim, or is not as it was when the manifest was written.
  """
  path = pathlib.Path(path)
  manifest_path = path.with_name(f'{path.stem.removesuffix("-x")}.json')
  manifest = {}
  if manifest_path.is_file():
    sealed = checksums.read(manifest_path, _REMEDY)
    sealed.check(path.name)
    manifest = sealed.record
  row_ND = _load(path, mmap_mode='r')
  if row_ND.ndim != 2 or not row_ND.size or row_ND.dtype.kind != 'f':
    raise ValueError(
      f'{path} holds {row_ND.dtype} of shape {row_ND.shape}: must be floats '
      '[N, D]'
    )
  told = tuple(
    manifest.get(key, found)
    for key, found in zip(('count', 'dim'), row_ND.shape, strict=True)
  )
  if told != row_ND.shape:
    raise ValueError(
      f'{manifest_path} says {told[0]} rows of width {told[1]}, {path} has '
      f'{row_ND.shape[0]} of width {row_ND.shape[1]}'
    )
  return row_ND, manifest


def load_labels(path: str | os.PathLike, count: int) -> np.ndarray:
  """Integer labels as int64, one for each of `count` rows, or ValueError.

  Those of `X-y.npy` are compared with the checksum in `X.json`.
  """
  path = pathlib.Path(path)
  manifest_path = path.with_name(f'{path.stem.removesuffix("-y")}.json')
  checksums.check_beside(path, manifest_path, _REMEDY)
  label_N = _load(path)
  if label_N.shape != (count,) or label_N.dtype.kind not in 'iu':
    raise ValueError(
      f'{path} holds {label_N.dtype} of shape {label_N.shape}: must be integer '
      f'labels of shape ({count},)'
    )
  return inputs.integers(label_N, str(path))


def own_rows(
  query_QD: np.ndarray, database_MD: np.ndarray, nearest_Q: np.ndarray
) -> np.ndarray:
  """The row of the database that each query is, int64 [Q]; -1: none.

  That is row i for query i if their numbers are the same, else the nearest row
  if its are.
  """
  own_Q = np.full(len(query_QD), -1)
  both = min(len(query_QD), len(database_MD))
  for rows_Q in (nearest_Q[:both], np.arange(both)):
    same_Q = (database_MD[rows_Q] == query_QD[:both]).all(1)
    own_Q[:both][same_Q] = rows_Q[same_Q]
  rest = slice(both, None)
  same_Q = (database_MD[nearest_Q[rest]] == query_QD[rest]).all(1)
  own_Q[rest][same_Q] = nearest_Q[rest][same_Q]
  return own_Q


def check_pair(query_QD: np.ndarray, database_MD: np.ndarray) -> None:
  """Raises ValueError if width or dtype differ."""
  query, database = (
    f'{x.dtype} of width {x.shape[1]}' for x in (query_QD, database_MD)
  )
  if query != database:
    raise ValueError(f'queries in {query}, database in {database}: must agree')


def default_dims(width: int, manifest: dict[str, Any]) -> tuple[int, ...]:
  """The manifest's nesting dims; else 8, 16, 32 … and the width itself."""
  if 'nesting_dims' in manifest:
    return nesting.validate(tuple(manifest['nesting_dims']), width)
  powers = (2**n for n in range(3, width.bit_length()))
  return (*(dim for dim in powers if dim < width), width)


def _load(path, **options) -> np.ndarray:
  try:
    array = np.load(path, allow_pickle=False, **options)
  except (ValueError, EOFError, OSError) as error:
    reason = ' '.join(str(error).split())
    raise ValueError(f'{path} cannot be read: {reason}') from None
  if not isinstance(array, np.ndarray):
    raise ValueError(f'{path} holds several arrays: must be one .npy')
  return array
