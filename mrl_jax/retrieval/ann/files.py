"""Saves an AdANNS index to a folder, and loads it."""

import hashlib
import os
import pathlib

import jax
import numpy as np

from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval.ann import KINDS
from mrl_jax.retrieval.ann.index import Index
from mrl_jax.retrieval.ann.ivf import Cells
from mrl_jax.retrieval.database import Database
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files

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
  arrays = {}
  if index.rotation_dd is not None:
    arrays['rotation'] = index.rotation_dd
  if index.cells is not None:
    arrays['centroids'] = index.cells.centroid_Cd
    arrays['cells'] = index.cells.cell_M
  rows_MD = index.database.embedding_MD
  manifest = {
    'kind': index.kind,
    'metric': 'cosine',
    'dim': index.dim,
    'scan_dim': index.scan_dim,
    'num_cells': len(arrays.get('centroids', ())),
    'code_bytes': index.code_bytes,
    'row_bytes': index.row_bytes(),
    'rows': rows_MD.shape[0],
    'width': rows_MD.shape[1],
    'fingerprint': fingerprint(rows_MD),
  }
  with files.replacing_folder(folder) as temporary:
    if index.faiss_index is not None:
      import faiss

      # The rows of a graph are in the database.
      faiss.write_index(
        index.faiss_index, str(temporary / 'index.faiss'),
        faiss.IO_FLAG_SKIP_STORAGE,
      )  # fmt: skip
    for name, array in arrays.items():
      np.save(temporary / f'{name}.npy', array, allow_pickle=False)
    checksums.write(
      temporary / 'manifest.json', manifest, list(temporary.iterdir())
    )


def load(
  folder: str | os.PathLike, database_MD: np.ndarray | jax.Array | Database
) -> Index:
  """Loads the index in `folder`, beside the database it was built on.

  Faiss trusts the files it reads, and damaged ones can end the process. So
  every file is compared with its checksum first.

  Raises:
    ValueError: no index, another database (the message describes both), or a
      file that differs from its checksum or has none.
  """
  folder = pathlib.Path(folder)
  try:
    sealed = checksums.read(folder / 'manifest.json', _REMEDY)
  except FileNotFoundError:
    raise ValueError(f'{folder} holds no index: no manifest.json') from None
  manifest = sealed.record
  kind = manifest.get('kind')
  if kind not in KINDS:
    raise ValueError(f'{folder}: kind {kind!r}, must be one of {KINDS}')
  if sealed.files is None:
    raise ValueError(
      f'{folder} was written without checksums, and damaged files of Faiss can '
      f'end the process: {_REMEDY}'
    )
  sealed.check_folder()
  database = database_lib.host_database(database_MD)
  rows_MD = database.embedding_MD
  found = (*rows_MD.shape, fingerprint(rows_MD))
  built = tuple(manifest[key] for key in ('rows', 'width', 'fingerprint'))
  if built != found:
    raise ValueError(
      f'{folder} was built on {built[0]} rows of width {built[1]}, fingerprint '
      f'{built[2]}; the database has {found[0]} of width {found[1]}, {found[2]}'
    )
  read = lambda name: np.load(folder / f'{name}.npy', allow_pickle=False)
  parts = {}
  if kind != 'ivf':
    import faiss

    parts['faiss_index'] = faiss.read_index(str(folder / 'index.faiss'))
  if kind.endswith(('opq', 'rabitq')):
    parts['rotation_dd'] = read('rotation')
  if kind.startswith('ivf'):
    parts['cells'] = Cells(read('centroids'), read('cells'))
  return Index(kind, manifest['dim'], manifest['scan_dim'], database, **parts)


def fingerprint(rows_MD: np.ndarray | jax.Array) -> str:
  """A digest of shape, dtype and 1,024 evenly spaced rows.

  It differs for another database, but not for every single changed row.
  """
  M = len(rows_MD)
  ids = np.unique(np.linspace(0, M - 1, min(M, _SAMPLE)).astype(np.int64))
  digest = hashlib.sha256(f'{rows_MD.shape} {rows_MD.dtype}'.encode())
  digest.update(np.ascontiguousarray(np.asarray(rows_MD[ids])).tobytes())
  return digest.hexdigest()[:16]
