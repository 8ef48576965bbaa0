"""Measures embeddings of texts on evaluation sets."""

from collections.abc import Callable, Sequence

import numpy as np

from mrl_jax.analysis import texts as analysis
from mrl_jax.data.text.eval_sets import TextSet

# The metric of each kind that tells one model from another.
MAIN = {
  'sts': 'spearman',
  'retrieval': 'ndcg10',
  'pairs': 'ap',
  'clustering': 'v_measure',
  'classification': 'accuracy',
}


def measure(
  text_set: TextSet,
  embed: Callable[[Sequence[str]], np.ndarray],
  dims: Sequence[int],
  *,
  prompts: Sequence[str] = (),
  neighbors: int = 10,
  seed: int = 0,
) -> dict[str, float]:
  """All metrics of a set, as `<name>/<metric>@<width>`, in percent.

  The first prompt is put before queries and before the texts of the other
  kinds, the last one before documents. `neighbors` vote in a classification.
  Raises ValueError if an embedding is not finite.
  """
  prompts = prompts or ('',)
  other = prompts[-1] if text_set.kind == 'retrieval' else prompts[0]
  first, second = text_set.first, text_set.second
  # All at once: a text may stand on both sides.
  embedding_ND = embed(
    [*(prompts[0] + x for x in first), *(other + x for x in second)]
  )
  if not np.isfinite(embedding_ND).all():
    raise ValueError(f'the embeddings of {text_set.name} are not finite')
  a_ND, b_ND = embedding_ND[: len(first)], embedding_ND[len(first) :]
  target, dims = text_set.target, tuple(dims)
  if text_set.kind == 'sts':
    values = analysis.similarity(a_ND, b_ND, target, dims)
  elif text_set.kind == 'pairs':
    values = analysis.pair_classification(a_ND, b_ND, target, dims)
  elif text_set.kind == 'clustering':
    values = analysis.clustering(a_ND, target, dims, seed=seed)
  elif text_set.kind == 'classification':
    values = analysis.classification(
      b_ND, target[1], a_ND, target[0], dims, neighbors=neighbors, seed=seed
    )
  else:
    values = analysis.search(a_ND, b_ND, target, dims)
  return {f'{text_set.name}/{name}': x for name, x in values.items()}


def main_metrics(sets: Sequence[TextSet]) -> list[str]:
  """The name of each set's main metric, as in `sts/spearman`."""
  return [f'{x.name}/{MAIN[x.kind]}' for x in sets]
