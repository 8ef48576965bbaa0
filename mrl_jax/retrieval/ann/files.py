"""Saves an AdANNS index to a folder, and loads it."""

import hashlib
import os
import pathlib
from typing import Any

import jax
import numpy as np

from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval.ann import KINDS
from mrl_jax.retrieval.ann.index import Index
from mrl_jax.retrieval.ann.ivf import Cells
from mrl_jax.retrieval.database import Database
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import npy

# Evenly spaced rows that a database's fingerprint is computed from.
_SAMPLE = 1024
# Advice for a file that differs from its checksum.
_REMEDY = 'build the index again'


def save(index: Index, folder: str | os.PathLike) -> None:
  """Writes `manifest.json` and the parts of the index, without the rows.

  The folder is written whole or not at all. Raises ValueError if it exists and
  holds no index.
  """
  folder = pathlib.Path(folder)
  if folder.exists() and not (folder / 'manifest.json').exists():
    raise ValueError(f'{folder} exists and holds no index: name another')
  with files.replacing_folder(folder) as temporary:
    if index.faiss_index is not None:
      import faiss

      # The rows of a graph are in the database.
      faiss.write_index(
        index.faiss_index, str(temporary / 'index.faiss'),
        faiss.IO_FLAG_SKIP_STORAGE,
      )  # fmt: skip
    arrays = {'rotation': index.rotation_dd}
    if index.cells is not None:
      arrays |= {
        'centroids': index.cells.centroid_Cd, 'cells': index.cells.cell_M,
      }  # fmt: skip
    for name, array in arrays.items():
      if array is not None:
        np.save(temporary / f'{name}.npy', array, allow_pickle=False)
    checksums.write(
      temporary / 'manifest.json', _manifest(index), list(temporary.iterdir())
    )


def load(
  folder: str | os.PathLike, database_MD: np.ndarray | jax.Array | Database
) -> Index:
  """Loads the index in `folder`, beside the database it was built on.

  Faiss trusts the files it reads, and damaged ones can end the process. So it
  is given none that differs from its checksum.

  Raises:
    ValueError: another database (the message describes both), a file that
      differs from its checksum, or parts of other widths and counts than the
      manifest says.
  """
  folder = pathlib.Path(folder)
  try:
    sealed = checksums.read(folder / 'manifest.json', _REMEDY)
  except FileNotFoundError:
    raise ValueError(f'{folder} holds no index: no manifest.json') from None
  manifest = sealed.record
  kind = manifest.get('kind')
  if kind not in KINDS or manifest.get('metric') != 'cosine':
    raise ValueError(
      f'{folder}: kind {kind!r} by {manifest.get("metric")!r}, must be one of '
      f"{KINDS} by 'cosine'"
    )
  for name in ('dim', 'scan_dim', 'num_cells', 'rows', 'width'):
    if not isinstance(manifest.get(name), int):
      raise ValueError(
        f'{sealed.path}: {name} is {manifest.get(name)!r}, must be a whole '
        f'number: {_REMEDY}'
      )
  database = database_lib.as_database(database_MD)
  _check_database(folder, manifest, database.embedding_MD)
  if kind != 'ivf' and sealed.files is None:
    raise ValueError(
      f'{folder} was written without checksums, and damaged files of Faiss can '
      f'end the process: {_REMEDY}'
    )
  sealed.check_folder()
  index = Index(kind, manifest['dim'], manifest['scan_dim'], database)
  parts = {}
  if kind != 'ivf':
    parts['faiss_index'] = _read_faiss(folder / 'index.faiss', manifest)
  if kind.endswith('opq'):
    shape = (index.scan_dim, index.scan_dim)
    parts['rotation_dd'] = _read_array(folder / 'rotation.npy', shape)
  if kind.startswith('ivf'):
    shape = (manifest['num_cells'], index.dim)
    centroid_Cd = _read_array(folder / 'centroids.npy', shape)
    cell_M = _read_cells(folder / 'cells.npy', manifest)
    parts['cells'] = Cells(centroid_Cd, cell_M)
  return Index(kind, index.dim, index.scan_dim, database, **parts)


def _manifest(index: Index) -> dict[str, Any]:
  rows_MD = index.database.embedding_MD
  cells = index.cells
  return {
    'kind': index.kind,
    'metric': 'cosine',
    'dim': index.dim,
    'scan_dim': index.scan_dim,
    'num_cells': 0 if cells is None else len(cells.centroid_Cd),
    'code_bytes': index.code_bytes,
    'row_bytes': index.row_bytes(),
    'rows': rows_MD.shape[0],
    'width': rows_MD.shape[1],
    'fingerprint': fingerprint(rows_MD),
  }


def fingerprint(rows_MD: np.ndarray | jax.Array) -> str:
  """A digest of shape, dtype and 1,024 evenly spaced rows.

  It differs for another database, but not for every single changed row.
  """
  M = len(rows_MD)
  ids = np.unique(np.linspace(0, M - 1, min(M, _SAMPLE)).astype(np.int64))
  digest = hashlib.sha256(f'{rows_MD.shape} {rows_MD.dtype}'.encode())
  digest.update(np.ascontiguousarray(np.asarray(rows_MD[ids])).tobytes())
  return digest.hexdigest()[:16]


def _check_database(folder, manifest, rows_MD):
  found = (*rows_MD.shape, fingerprint(rows_MD))
  built = tuple(manifest.get(key) for key in ('rows', 'width', 'fingerprint'))
  if built != found:
    raise ValueError(
      f'{folder} was built on {built[0]} rows of width {built[1]}, fingerprint '
      f'{built[2]}; the database has {found[0]} of width {found[1]}, {found[2]}'
    )


def _read_faiss(path: pathlib.Path, manifest: dict[str, Any]) -> Any:
  import faiss

  try:
    index = faiss.read_index(str(path))
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    raise ValueError(f'{path} cannot be read: {reason}') from None
  shown = {'width': index.d, 'rows': index.ntotal}
  told = {'width': manifest['scan_dim'], 'rows': manifest['rows']}
  if manifest['kind'].startswith('ivf'):
    shown['cells'], told['cells'] = index.nlist, manifest['num_cells']
  if manifest['kind'].endswith('pq'):
    shown['code_bytes'], told['code_bytes'] = index.pq.M, manifest['code_bytes']
  for name, found in shown.items():
    if found != told[name]:
      raise ValueError(
        f'{path} was built at {name} {found}, the manifest says {told[name]}'
      )
  return index


def _read_array(
  path: pathlib.Path, shape: tuple[int, ...], dtype: str = 'float32'
) -> np.ndarray:
  try:
    array = npy.load(path)
  except (ValueError, OSError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from None
  if (array.shape, array.dtype.name) != (shape, dtype):
    raise ValueError(
      f'{path} is {array.dtype} of shape {array.shape}, must be {dtype} of '
      f'{shape}'
    )
  if not np.isfinite(array).all():
    raise ValueError(f'{path} holds numbers that are not finite')
  return array


def _read_cells(path: pathlib.Path, manifest: dict[str, Any]) -> np.ndarray:
  """The cell of each row, checked, since Faiss would write beyond the last."""
  cell_M = _read_array(path, (manifest['rows'],), 'int32')
  num_cells = manifest['num_cells']
  wrong_M = (cell_M < 0) | (cell_M >= num_cells)
  if wrong_M.any():
    row = int(wrong_M.argmax())
    raise ValueError(
      f'{path} puts row {row} into cell {cell_M[row]}: must be in '
      f'[0, {num_cells}), the cells of the manifest'
    )
  return cell_M
