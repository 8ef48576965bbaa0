"""AdANNS (arXiv 2305.19435): Faiss indices of prefixes, reranked at more dims.

An index is built on one prefix, holds no full-width rows, and is searched
beside the one resident copy of the database, which reranks what it found.

  hnsw     a graph built at `dim`, walked at any width (AdANNS-D)
  ivf      cells clustered at `dim` (d_c), scanned at any width (d_s), narrower
           or wider; the cells may also be looked up at less than d_c
  ivf_pq   the same with product-quantised rows of `scan_dim`
  ivf_opq  the same, rotated first (OPQ)
  opq      rotated codes of `dim` of all rows, no cells

Codes cannot be scanned at another width than they were made of: a rotation
mixes all dims, and a code without one does not tell its prefix's length.
"""

import dataclasses

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval.ann import graph as graph_lib
from mrl_jax.retrieval.ann import ivf as cells_lib
from mrl_jax.retrieval.ann import pq as codes_lib
from mrl_jax.retrieval.ann.index import Index
from mrl_jax.retrieval.database import Database

KINDS = ('hnsw', 'ivf', 'ivf_pq', 'ivf_opq', 'opq')


@checks.takes(
  database_MD=checks.floats('MD', also=(Database,)),
  kind=checks.choice(*KINDS),
  dim=checks.whole(),
  scan_dim=checks.whole(),
  num_cells=checks.whole(),
  code_bytes=checks.whole(),
  links=checks.whole(2, 2**10),
  effort=checks.whole(1, 2**20),
  seed=checks.whole(0),
)
def build(
  database_MD: np.ndarray | jax.Array | Database,
  kind: str,
  dim: int,
  *,
  scan_dim: int | None = None,
  num_cells: int = 1024,
  code_bytes: int = 32,
  links: int = 32,
  effort: int = 40,
  seed: int = 0,
) -> Index:
  """Builds an index on the prefix of width `dim`.

  Args:
    database_MD: the full-width rows, of which the index keeps a reference.
    kind: one of KINDS.
    scan_dim: width of the scan or the codes (d_s); None: `dim`. Only with
      cells.
    num_cells: of the ivf kinds, at most M.
    code_bytes: of the pq kinds, a byte for each of as many equal parts.
    links: HNSW's M, links of a row on each level.
    effort: HNSW's efConstruction.
    seed: of the rows that cells and codes are trained on.

  Raises:
    ValueError: any of these that does not fit.
  """
  if kind not in KINDS:
    raise ValueError(f'kind {kind!r}: must be one of {KINDS}')
  forks.check()
  database = database_MD
  if not isinstance(database, Database):
    database = database_lib.host_database(database_MD)
  rows_MD = database.embedding_MD
  M, D = rows_MD.shape
  scan_dim = dim if scan_dim is None else scan_dim
  dim, scan_dim = (nesting.validate((x,), D)[0] for x in (dim, scan_dim))
  num_cells = inputs.number(num_cells, 'num_cells')
  code_bytes = inputs.number(code_bytes, 'code_bytes')
  for name, value in (('links', links), ('effort', effort)):
    if inputs.number(value, name) < 1:
      raise ValueError(f'{name} {value}: must be at least 1')
  if not kind.startswith('ivf') and scan_dim != dim:
    raise ValueError(
      f'scan_dim {scan_dim}: {kind} is built at one width, {dim}'
    )
  if kind.endswith('pq'):
    _check_codes(scan_dim, code_bytes, M)
  index = Index(kind, dim, scan_dim, database)
  if kind == 'hnsw':
    graph = graph_lib.build(rows_MD, dim, links=links, effort=effort)
    return dataclasses.replace(index, faiss_index=graph)
  if kind == 'opq':
    codes, rotation_dd = codes_lib.exhaustive(
      rows_MD, dim, code_bytes, seed=seed
    )
    return dataclasses.replace(
      index, faiss_index=codes, rotation_dd=rotation_dd
    )
  if not 1 <= num_cells <= M:
    raise ValueError(f'num_cells {num_cells}: must be in [1, {M}], the rows')
  cells = cells_lib.cluster(rows_MD, dim, num_cells, seed=seed)
  codes = rotation_dd = None
  if kind != 'ivf':
    codes, rotation_dd = codes_lib.in_cells(
      cells, rows_MD, scan_dim, code_bytes, rotate=kind == 'ivf_opq', seed=seed
    )
  return dataclasses.replace(
    index, cells=cells, faiss_index=codes, rotation_dd=rotation_dd
  )


@checks.takes(
  label_M=checks.integers('M'),
  ids_QK=checks.integers('QK'),
)
def labels_of(
  label_M: np.ndarray, ids_QK: np.ndarray, missing: int = -1
) -> np.ndarray:
  """The labels of neighbours, int64 [Q, K]; `missing` where the id is -1."""
  ids_QK = inputs.integers(ids_QK, 'ids')
  label_M = inputs.integers(label_M, 'labels')
  if ids_QK.size and ids_QK.max() >= len(label_M):
    raise ValueError(
      f'id {ids_QK.max()}: must be below {len(label_M)}, the rows'
    )
  return np.where(ids_QK < 0, missing, label_M[ids_QK])


def _check_codes(dim, code_bytes, M):
  if code_bytes < 1 or dim % code_bytes:
    raise ValueError(f'code_bytes {code_bytes}: must divide the width {dim}')
  if M < codes_lib.CENTROIDS:
    raise ValueError(f'{M} rows: codes need {codes_lib.CENTROIDS} to train on')
