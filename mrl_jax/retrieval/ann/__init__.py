"""AdANNS (arXiv 2305.19435): Faiss indices of prefixes, reranked at more dims.

An index is built on one prefix and holds no full-width rows. The database
beside it reranks the rows that it finds.

  hnsw     a graph built at width `dim`, walked at any width (AdANNS-D)
  ivf      cells clustered at width `dim` (d_c) and scanned at any width (d_s);
           they may also be looked up at a narrower width than d_c
  ivf_pq   the same with product-quantised rows of width `scan_dim`
  ivf_opq  the same with rows that are rotated first (OPQ)
  opq      rotated and product-quantised rows of width `dim`, without cells
  rabitq, ivf_rabitq   the same with a bit for each dim (RaBitQ)

Codes can only be scanned at the width they were made at: a rotation mixes all
dims, and a code without one does not determine the length of its prefix.
"""

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval.ann import graph
from mrl_jax.retrieval.ann import ivf
from mrl_jax.retrieval.ann import pq
from mrl_jax.retrieval.ann import rabitq
from mrl_jax.retrieval.ann.index import Index
from mrl_jax.retrieval.database import Database

KINDS = ('hnsw', 'ivf', 'ivf_pq', 'ivf_opq', 'opq', 'rabitq', 'ivf_rabitq')


@checks.takes(
  kind=checks.choice(*KINDS),
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
    database_MD: the full-width rows, to which the index keeps a reference.
    kind: one of KINDS.
    dim: the width of the graph, the cells (d_c) or the codes of 'opq'.
    scan_dim: the width of the scan or the codes (d_s), for kinds with cells;
      None: `dim`.
    num_cells: the number of cells, at most M.
    code_bytes: the bytes of a code of PQ; each encodes one of as many parts.
    links: HNSW's M, the links of a row on each level.
    effort: HNSW's efConstruction.
    seed: chooses the rows that cells and codes are trained on.

  Raises:
    ValueError: an argument that does not fit.
  """
  forks.check()
  database = database_lib.host_database(database_MD)
  rows_MD = database.embedding_MD
  M, D = rows_MD.shape
  scan_dim = dim if scan_dim is None else scan_dim
  dim, scan_dim = (nesting.validate((x,), D)[0] for x in (dim, scan_dim))
  if not kind.startswith('ivf') and scan_dim != dim:
    raise ValueError(
      f'scan_dim {scan_dim}: {kind} is built at one width, {dim}'
    )
  if kind.endswith('pq'):
    if scan_dim % code_bytes:
      raise ValueError(
        f'code_bytes {code_bytes}: must divide the width {scan_dim}'
      )
    if M < pq.CENTROIDS:
      raise ValueError(f'{M} rows: codes need {pq.CENTROIDS} to train on')
  if kind.startswith('ivf') and num_cells > M:
    raise ValueError(f'num_cells {num_cells}: must be in [1, {M}], the rows')
  cells = built = rotation_dd = None
  if kind == 'hnsw':
    built = graph.build(rows_MD, dim, links=links, effort=effort)
  elif kind == 'opq':
    built, rotation_dd = pq.exhaustive(rows_MD, dim, code_bytes, seed=seed)
  elif kind == 'rabitq':
    built, rotation_dd = rabitq.exhaustive(rows_MD, dim, seed=seed)
  else:
    cells = ivf.cluster(rows_MD, dim, num_cells, seed=seed)
  if kind in ('ivf_pq', 'ivf_opq'):
    built, rotation_dd = pq.in_cells(
      cells, rows_MD, scan_dim, code_bytes, rotate=kind == 'ivf_opq', seed=seed
    )
  if kind == 'ivf_rabitq':
    built, rotation_dd = rabitq.in_cells(cells, rows_MD, scan_dim, seed=seed)
  return Index(kind, dim, scan_dim, database, cells, built, rotation_dd)


@checks.takes(label_M=checks.as_int64, ids_QK=checks.as_int64)
def labels_of(
  label_M: np.ndarray, ids_QK: np.ndarray, missing: int = -1
) -> np.ndarray:
  """The labels of neighbours, int64 [Q, K]; `missing` for ids below 0."""
  if label_M.ndim != 1:
    raise ValueError(f'labels of shape {label_M.shape}: must be [M]')
  if ids_QK.size and ids_QK.max() >= len(label_M):
    raise ValueError(
      f'id {ids_QK.max()}: must be below {len(label_M)}, the rows'
    )
  return np.where(ids_QK < 0, missing, label_M[ids_QK])
