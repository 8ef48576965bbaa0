"""HNSW: a graph built at one width, walked at any."""

from typing import Any

import jax
import numpy as np

from mrl_jax.retrieval import prefixes


def build(
  rows_MD: np.ndarray | jax.Array, dim: int, *, links: int, effort: int
) -> Any:
  """A `faiss.IndexHNSW` of the unit prefixes of width `dim`.

  With several threads the links depend on their timing; with one, each build
  makes the same graph.
  """
  import faiss

  index = faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
  index.hnsw.efConstruction = effort
  for _, row_Bd in prefixes.unit_blocks(rows_MD, dim):
    index.add(row_Bd)
  return index


def at_width(graph: Any, rows_MD: np.ndarray | jax.Array, dim: int) -> Any:
  """A graph of the same links over unit prefixes of width `dim` (AdANNS-D)."""
  import faiss

  if graph.d == dim and graph.storage is not None:
    return graph
  storage = faiss.IndexFlatIP(dim)
  for _, row_Bd in prefixes.unit_blocks(rows_MD, dim):
    storage.add(row_Bd)
  index = faiss.IndexHNSW(storage, 1)
  index.hnsw = graph.hnsw
  index.ntotal, index.is_trained = graph.ntotal, True
  return index


def walk(
  index: Any, query_Qd: np.ndarray, k: int, effort: int
) -> tuple[np.ndarray, np.ndarray, float]:
  """Searches along the links: scores [Q, K], ids [Q, K], rows per query."""
  import faiss

  faiss.cvar.hnsw_stats.reset()
  parameters = faiss.SearchParametersHNSW(efSearch=effort)
  score_QK, ids_QK = index.search(query_Qd, k, params=parameters)
  return score_QK, ids_QK, faiss.cvar.hnsw_stats.ndis / len(query_Qd)
