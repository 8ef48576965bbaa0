"""Nearest neighbours with nested embeddings: numpy arrays in and out.

Similarity is the cosine of prefixes: slice, then normalise. No module here
depends on models or datasets; any embeddings will do.
"""

from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import rotation
from mrl_jax.retrieval.cost import Cost
from mrl_jax.retrieval.cost import Neighbors
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.mesh import DeviceDatabase
from mrl_jax.retrieval.neighbors import adaptive
from mrl_jax.retrieval.neighbors import funnel
from mrl_jax.retrieval.neighbors import prepare
from mrl_jax.retrieval.neighbors import rerank
from mrl_jax.retrieval.neighbors import search

__all__ = (
  'Cost',
  'Database',
  'DeviceDatabase',
  'Neighbors',
  'adaptive',
  'funnel',
  'metrics',
  'prepare',
  'rerank',
  'rotation',
  'search',
)
