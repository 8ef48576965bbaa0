"""RaBitQ (arXiv 2405.12497): a bit a dim of rotated rows, scored unbiasedly.

A code has 8 bytes more, for the lengths that the signs have lost. Unlike plain
signs it fits dims of any spread, since a rotation shares them out evenly.
"""

from typing import Any

import jax
import numpy as np

from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.ann import ivf
from mrl_jax.retrieval.ann.ivf import Cells

# Rows whose mean codes are relative to.
_SAMPLE = 65536


def exhaustive(
  rows_MD: np.ndarray | jax.Array, dim: int, *, seed: int
) -> tuple[Any, np.ndarray]:
  """A `faiss.IndexRaBitQFastScan` of unit prefixes, and their rotation."""
  import faiss

  rotation_dd = _rotation(dim, seed)
  _, row_Nd = prefixes.unit_sample(rows_MD, dim, _SAMPLE, seed)
  index = faiss.IndexRaBitQFastScan(dim, faiss.METRIC_INNER_PRODUCT)
  index.train(row_Nd @ rotation_dd.T)
  for _, row_Bd in prefixes.unit_blocks(rows_MD, dim):
    index.add(row_Bd @ rotation_dd.T)
  return index, rotation_dd


def in_cells(
  cells: Cells, rows_MD: np.ndarray | jax.Array, dim: int, *, seed: int
) -> tuple[Any, np.ndarray]:
  """A `faiss.IndexIVFRaBitQ` relative to the means of cells; the rotation."""
  import faiss

  rotation_dd = _rotation(dim, seed)
  mean_Cd = cells.means(rows_MD, dim) @ rotation_dd.T
  quantizer = faiss.IndexFlatIP(dim)
  quantizer.add(mean_Cd)
  index = faiss.IndexIVFRaBitQ(
    quantizer, dim, len(mean_Cd), faiss.METRIC_INNER_PRODUCT
  )
  index.is_trained = True
  return ivf.fill(index, cells, rows_MD, rotation_dd), rotation_dd


def _rotation(dim, seed):
  import faiss

  if not hasattr(faiss, 'IndexRaBitQFastScan'):
    raise ValueError(
      f'rabitq: faiss {faiss.__version__} has none: pip install -U faiss-cpu'
    )
  matrix = faiss.RandomRotationMatrix(dim, dim)
  matrix.init(seed + 1)
  return faiss.vector_to_array(matrix.A).reshape(dim, dim)
