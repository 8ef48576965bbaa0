"""Nested embeddings in Qdrant: a vector for each width, and the funnel."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import itertools
from typing import Any

import numpy as np

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import prefixes

# Points in a request.
_BATCH = 1000


def fill(
  client,
  collection: str,
  dims: Sequence[int],
  blocks: Iterable[tuple[int, Sequence[np.ndarray]]],
  label_N: np.ndarray | None = None,
  body: dict[str, Any] | None = None,
) -> None:
  """Creates a collection with a cosine vector named after each width.

  `blocks` yields the number of the first row, and the prefixes [B, dim]. `body`
  has the collection's settings, as `plan.cluster.collection` makes them.
  """
  from qdrant_client import models

  vectors = {str(dim): {'size': dim, 'distance': 'Cosine'} for dim in dims}
  made = models.CreateCollection(**(body or {'vectors': vectors}))
  client.create_collection(
    collection, vectors_config=made.vectors, shard_number=made.shard_number
  )
  names = [str(dim) for dim in dims]
  for first, vectors in blocks:
    points = (
      models.PointStruct(
        id=row,
        vector=dict(zip(names, (x_d.tolist() for x_d in each), strict=True)),
        payload={} if label_N is None else {'label': int(label_N[row])},
      )
      for row, each in enumerate(zip(*vectors, strict=True), start=first)
    )
    while batch := list(itertools.islice(points, _BATCH)):
      client.upsert(collection, batch, wait=True)


@contextlib.contextmanager
def publishing(client, name: str) -> Iterator[str]:
  """Yields the name of a hidden collection; at the end `name` points to it.

  After an interrupt the hidden one is deleted, at the latest by the next
  attempt. Raises ValueError if `name` exists already.
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
  """Arguments of `client.query_points` that do what `retrieval.funnel` does.

  The innermost step searches all rows at `dims[0]`; each step around it scores
  the rows that were kept at the next width. The embedded storage searches
  exactly; a server may walk its graph in the innermost step. Raises ValueError
  as `funnel` does.
  """
  from qdrant_client import models

  query_D = checks.as_floats('query', query_D)
  if query_D.ndim != 1:
    raise ValueError(f'query of shape {query_D.shape}: must be [D]')
  query_1D, width = query_D[None], len(query_D)
  database_lib.queries(query_1D, query_1D, width)
  dims = nesting.validate(dims, width)
  shortlists = inputs.check_shortlists(shortlists, dims)
  step = {}
  for i, (dim, kept) in enumerate(zip(dims, shortlists, strict=True)):
    # A step scores the rows that the step inside it is limited to.
    inner = {'prefetch': models.Prefetch(**step)} if i else {}
    (prefix_d,) = prefixes.unit(query_1D, dim)
    step = {
      'query': prefix_d.tolist(), 'using': str(dim), 'limit': kept, **inner
    }  # fmt: skip
  return step
