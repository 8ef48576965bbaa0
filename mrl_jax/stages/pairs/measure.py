"""Measures towers on evaluation sets, at every width."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import retrieval
from mrl_jax.analysis import pairs as analysis
from mrl_jax.data.pairs.datasets import PairSet
from mrl_jax.stages.pairs.trained import Embedder

# The metric of each kind that tells one model from another.
MAIN = {'retrieval': 't2i_recall10', 'zero_shot': 'zero_shot'}
# Searches by words that the report shows, and pictures found by each.
_SEARCHES = 12
_FOUND = 5


class Measured(NamedTuple):
  """The metrics of a set, `<name>/<metric>@<width>`, and searches by words.

  Attributes:
    values: accuracies and recalls in percent, cosines as they are.
    count: number of pictures.
    searches: by width, the words and the first captions of what they find.
  """

  values: dict[str, float]
  count: int
  searches: dict[str, list[list[str]]]


def measure(
  pair_set: PairSet, embedder: Embedder, dims: Sequence[int]
) -> Measured:
  """All metrics of a set; ValueError if an embedding is not finite."""
  image_ND, label_N = embedder.images(pair_set.source)
  if not np.isfinite(image_ND).all():
    raise ValueError(f'the embeddings of {pair_set.name} are not finite')
  if pair_set.kind == 'retrieval':
    found, searches = _retrieval(pair_set, embedder, image_ND, label_N, dims)
  else:
    found, searches = (
      _zero_shot(pair_set, embedder, image_ND, label_N, dims),
      {},
    )
  values = {
    f'{pair_set.name}/{name}@{dim}': float(value)
    for name, by_dim in found.items()
    for dim, value in by_dim.items()
  }
  return Measured(values, len(label_N), searches)


def _retrieval(pair_set, embedder, image_ND, number_N, dims) -> tuple:
  source, shortlist = pair_set.source, pair_set.entry.shortlist
  captions = [source.captions[number] for number in number_N]
  texts = [text for several in captions for text in several]
  number_M = np.repeat(number_N, [len(x) for x in captions])
  text_MD = embedder.texts(texts)
  directions = {
    'i2t': (image_ND, text_MD, number_N, number_M),
    't2i': (text_MD, image_ND, number_M, number_N),
  }
  found: dict[str, dict[int, float]] = {}
  for name, (query, key, query_number, key_number) in directions.items():
    recalls = analysis.recalls(query, key, query_number, key_number, dims)
    for k in recalls[dims[0]]:
      found[f'{name}_recall{k}'] = {m: recalls[m][k] for m in dims}
    found[f'{name}_adaptive10'] = _adaptive(
      query, key, query_number, key_number, dims, shortlist
    )
  first_N = np.cumsum([0, *(len(x) for x in captions[:-1])])
  cosines = analysis.similarity(image_ND, text_MD[first_N], dims)
  found['cosine_of_pairs'] = {m: pair for m, (pair, _) in cosines.items()}
  found['cosine_of_others'] = {m: other for m, (_, other) in cosines.items()}
  return found, _searches(texts, text_MD, captions, image_ND, dims)


def _adaptive(
  query, key, query_number, key_number, dims, shortlist
) -> dict[int, float]:
  """Recall@10 of a shortlist by each width, reranked by the last one."""
  count = min(shortlist, len(key))
  k, database, found = min(10, count), retrieval.prepare(key), {}
  for dim in dims[:-1]:
    ids_QK, _ = retrieval.adaptive(
      query, database, k,
      shortlist_dim=dim, rerank_dim=dims[-1], shortlist=count,
    )  # fmt: skip
    hits_QK = key_number[np.asarray(ids_QK)] == query_number[:, None]
    found[dim] = 100 * float(hits_QK.any(1).mean())
  return found


def _searches(texts, text_MD, captions, image_ND, dims) -> dict[str, Any]:
  """Evenly chosen captions, and the pictures that each finds at each width."""
  chosen = np.unique(np.linspace(0, len(texts) - 1, _SEARCHES).astype(int))
  database, found = retrieval.prepare(image_ND), {}
  k = min(_FOUND, len(image_ND))
  for dim in dims:
    ids_QK, _ = retrieval.search(text_MD[chosen], database, k, dim=dim)
    found[str(dim)] = [
      [texts[i], *(captions[j][0] for j in ids_K)]
      for i, ids_K in zip(chosen, np.asarray(ids_QK), strict=True)
    ]
  return found


def _zero_shot(
  pair_set, embedder, image_ND, label_N, dims
) -> dict[str, dict[int, float]]:
  names, templates = pair_set.source.class_names, pair_set.entry.templates
  prompts = analysis.prompts(names, templates)
  text_CTD = embedder.texts(prompts).reshape(len(names), len(templates), -1)
  found = {'zero_shot': analysis.zero_shot(image_ND, text_CTD, label_N, dims)}
  if pair_set.neighbors is not None:
    near_MD, near_label_M = embedder.images(pair_set.neighbors)
    database = retrieval.prepare(near_MD)
    found['knn1'] = {}
    for dim in dims:
      ids_Q1, _ = retrieval.search(image_ND, database, 1, dim=dim)
      nearest_Q = near_label_M[np.asarray(ids_Q1)[:, 0]]
      found['knn1'][dim] = 100 * float((nearest_Q == label_N).mean())
  return found
