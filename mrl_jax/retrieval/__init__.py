"""Nearest neighbours with nested embeddings: numpy arrays in and out.

Similarity is the cosine of prefixes: slice, then normalise. Nothing here knows
of models or datasets; any embeddings will do.
"""

from mrl_jax.retrieval.search import adaptive
from mrl_jax.retrieval.search import Database
from mrl_jax.retrieval.search import funnel
from mrl_jax.retrieval.search import Neighbors
from mrl_jax.retrieval.search import prepare
from mrl_jax.retrieval.search import search

__all__ = (
  'Database',
  'Neighbors',
  'adaptive',
  'funnel',
  'prepare',
  'search',
)
