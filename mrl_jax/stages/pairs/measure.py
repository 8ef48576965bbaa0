"""Measures towers on evaluation sets, at every width."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax import retrieval
from mrl_jax.analysis import pairs as analysis
from mrl_jax.data.pairs.datasets import PairSet
from mrl_jax.stages.pairs.trained import Embedder

# The metric of each kind that tells one model from another.
MAIN = {'retrieval': 't2i_recall10', 'zero_shot': 'zero_shot'}


class Embedded(NamedTuple):
  """The embeddings of pictures and of their captions.

  Attributes:
    image_ND: embeddings of the pictures.
    number_N: the pictures' numbers in their source.
    texts: the M captions, picture by picture.
    text_MD: their embeddings.
    number_M: the numbers of their pictures.
  """

  image_ND: np.ndarray
  number_N: np.ndarray
  texts: Sequence[str]
  text_MD: np.ndarray
  number_M: np.ndarray

  @property
  def first_N(self) -> np.ndarray:
    """The place of each picture's first caption."""
    is_first_M = np.diff(self.number_M, prepend=-1) != 0
    return np.flatnonzero(is_first_M)


class Measured(NamedTuple):
  """The metrics of a set, `<name>/<metric>@<width>`.

  Attributes:
    values: accuracies and recalls in percent, cosines as they are.
    count: number of pictures.
    embedded: what was measured; None for images with classes.
  """

  values: dict[str, float]
  count: int
  embedded: Embedded | None


def measure(
  pair_set: PairSet, embedder: Embedder, dims: Sequence[int]
) -> Measured:
  """All metrics of a set; ValueError if an embedding is not finite."""
  image_ND, label_N = embedder.images(pair_set.source)
  if not np.isfinite(image_ND).all():
    raise ValueError(f'the embeddings of {pair_set.name} are not finite')
  embedded = None
  if pair_set.kind == 'retrieval':
    embedded = _embedded(pair_set, embedder, image_ND, label_N)
    found = _retrieval(embedded, dims, pair_set.entry.shortlist)
  else:
    found = _zero_shot(pair_set, embedder, image_ND, label_N, dims)
  values = {
    f'{pair_set.name}/{name}@{dim}': float(value)
    for name, by_dim in found.items()
    for dim, value in by_dim.items()
  }
  return Measured(values, len(label_N), embedded)


def _embedded(pair_set, embedder, image_ND, number_N) -> Embedded:
  captions = [pair_set.source.captions[number] for number in number_N]
  texts = [text for several in captions for text in several]
  number_M = np.repeat(number_N, [len(x) for x in captions])
  return Embedded(image_ND, number_N, texts, embedder.texts(texts), number_M)


def _retrieval(embedded, dims, shortlist) -> dict[str, dict[int, float]]:
  image_ND, number_N, _, text_MD, number_M = embedded
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
  cosines = analysis.similarity(image_ND, text_MD[embedded.first_N], dims)
  found['cosine_of_pairs'] = {m: pair for m, (pair, _) in cosines.items()}
  found['cosine_of_others'] = {m: other for m, (_, other) in cosines.items()}
  return found


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
