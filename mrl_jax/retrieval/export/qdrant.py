"""Nested embeddings in Qdrant: a named vector for each width; the funnel."""

from collections.abc import Iterator, Sequence
import contextlib
from typing import Any

import numpy as np

from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import prefixes

# Points a request.
_BATCH = 1000


def create(client, collection: str, dims: Sequence[int]) -> None:
  """An empty collection with a cosine vector of each width, named by it."""
  from qdrant_client import models

  cosine = models.Distance.COSINE
  client.create_collection(
    collection,
    vectors_config={
      str(dim): models.VectorParams(size=dim, distance=cosine) for dim in dims
    },
  )


def upload(
  client,
  collection: str,
  dims: Sequence[int],
  first: int,
  prefixes: Sequence[np.ndarray],
  label_N: np.ndarray | None = None,
) -> None:
  """Adds rows from `first` on: their prefixes [B, dim] of each width."""
  from qdrant_client import models

  count = len(prefixes[0])
  for start in range(0, count, _BATCH):
    points = [
      models.PointStruct(
        id=first + row,
        vector={
          str(dim): prefix_Bd[row].tolist()
          for dim, prefix_Bd in zip(dims, prefixes, strict=True)
        },
        payload=(
          {} if label_N is None else {'label': int(label_N[first + row])}
        ),
      )
      for row in range(start, min(start + _BATCH, count))
    ]
    client.upsert(collection, points, wait=True)


@contextlib.contextmanager
def publishing(client, name: str) -> Iterator[str]:
  """Yields the name of a collection to fill; at the end `name` points to it.

  Interrupted, the hidden collection goes, with the next attempt at the latest.
  Raises ValueError if `name` is there already.
  """
  from qdrant_client import models

  if client.collection_exists(name) or any(
    alias.alias_name == name for alias in client.get_aliases().aliases
  ):
    raise ValueError(f'collection {name!r} is there already: name another')
  hidden = f'{name}-mrl_jax'
  client.delete_collection(hidden)
  try:
    yield hidden
  except BaseException:
    client.delete_collection(hidden)
    raise
  alias = models.CreateAlias(collection_name=hidden, alias_name=name)
  client.update_collection_aliases(
    [models.CreateAliasOperation(create_alias=alias)]
  )


def funnel_query(
  query_D: np.ndarray, dims: Sequence[int], shortlists: Sequence[int]
) -> dict[str, Any]:
  """Keyword arguments of `client.query_points` that are `retrieval.funnel`'s.

  `dims[0]` searches all rows and keeps `shortlists[0]`, nested innermost; each
  further width scores what was kept. The embedded storage searches exactly; a
  server may walk its graph for the innermost step. Raises ValueError as
  `funnel` does.
  """
  from qdrant_client import models

  query_D = inputs.floats(query_D, 'query')
  if query_D.ndim != 1:
    raise ValueError(f'query of shape {query_D.shape}: must be [D]')
  database_lib.check_queries(query_D[None])
  dims = nesting.validate(dims, len(query_D))
  shortlists = list(inputs.numbers(shortlists, 'shortlists'))
  if len(shortlists) != len(dims):
    raise ValueError(
      f'shortlists {shortlists}: one is needed for each of {dims}'
    )
  if shortlists[-1] < 1 or sorted(shortlists, reverse=True) != shortlists:
    raise ValueError(f'shortlists {shortlists}: must be positive, never grow')
  step = {}
  for i, (dim, kept) in enumerate(zip(dims, shortlists, strict=True)):
    # What a step is limited to is what the step around it scores.
    inner = {'prefetch': models.Prefetch(**step)} if i else {}
    (prefix_d,) = prefixes.unit(query_D[None], dim)
    step = {
      'query': prefix_d.tolist(), 'using': str(dim), 'limit': kept, **inner
    }  # fmt: skip
  return step
