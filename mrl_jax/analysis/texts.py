"""How good embeddings of texts are at each width, as MTEB measures it.

All values are in percent. A prefix is compared by its cosine; one without a
direction has the cosine 0.
"""

from collections.abc import Callable, Mapping, Sequence
import warnings

import numpy as np

from mrl_jax import retrieval
from mrl_jax.analysis import few_shot

# Documents found for a query.
_FOUND = 100
_CUTOFF = 10
# Of MTEB's k-means.
_KMEANS = {'init': 'k-means++', 'n_init': 1, 'batch_size': 512}
# Of MTEB's linear classifiers: how many there are, on how many texts of each
# class, and how long they are fitted.
_DRAWS, _SHOTS, _ITERATIONS = 10, 8, 100
_F1 = {'average': 'macro', 'zero_division': 0}

Values = dict[str, float]


def similarity(
  a_ND: np.ndarray, b_ND: np.ndarray, score_N: np.ndarray, dims: Sequence[int]
) -> Values:
  """Correlation of the cosines of pairs with their scores.

  `spearman@<width>` is that of ranks, `pearson@<width>` that of the values; 0
  if all cosines are the same.
  """
  from scipy import stats

  def measure(width):
    cosine_N = _cosines(a_ND, b_ND, width)
    if np.ptp(cosine_N) == 0:
      return {'spearman': 0.0, 'pearson': 0.0}
    return {
      'spearman': 100 * stats.spearmanr(cosine_N, score_N).statistic,
      'pearson': 100 * stats.pearsonr(cosine_N, score_N).statistic,
    }

  return _each(measure, dims)


def pair_classification(
  a_ND: np.ndarray, b_ND: np.ndarray, is_pair_N: np.ndarray, dims: Sequence[int]
) -> Values:
  """Average precision of the cosine as a sign of a pair, `ap@<width>`."""
  from sklearn import metrics

  def measure(width):
    cosine_N = _cosines(a_ND, b_ND, width)
    return {'ap': 100 * metrics.average_precision_score(is_pair_N, cosine_N)}

  return _each(measure, dims)


def clustering(
  embedding_ND: np.ndarray,
  label_N: np.ndarray,
  dims: Sequence[int],
  *,
  seed: int = 0,
) -> Values:
  """V-measure of k-means with as many clusters as classes, `v_measure@<width>`.

  The prefixes are scaled to length 1 before.
  """
  from sklearn import cluster
  from sklearn import metrics

  def measure(width):
    means = cluster.MiniBatchKMeans(
      len(np.unique(label_N)), random_state=seed, **_KMEANS
    )
    found_N = means.fit_predict(_unit(embedding_ND[:, :width]))
    return {'v_measure': 100 * metrics.v_measure_score(label_N, found_N)}

  return _each(measure, dims)


def classification(
  train_MD: np.ndarray,
  train_label_M: np.ndarray,
  test_ND: np.ndarray,
  test_label_N: np.ndarray,
  dims: Sequence[int],
  *,
  neighbors: int = 10,
  seed: int = 0,
) -> Values:
  """Classes of texts, from others whose classes are known, at each width.

  `accuracy` and `f1`, its macro average over classes, are of logistic
  regressions on 8 training texts of each class, or as many as there are, the
  mean of 10 draws. `knn1` and `knn<neighbors>` are the accuracy of the nearest
  training text, and of a vote of so many, by cosine; a tie goes to the nearer.
  The prefixes are scaled to length 1 before.
  """
  from sklearn import linear_model
  from sklearn import metrics

  draws = _draws(train_label_M, seed)
  count = min(neighbors, len(train_label_M))
  database = retrieval.prepare(train_MD, tuple(dims))

  def measure(width):
    train_Mm, test_Nm = _unit(train_MD[:, :width]), _unit(test_ND[:, :width])
    accuracies, f1 = [], []
    for rows in draws:
      linear = linear_model.LogisticRegression(
        max_iter=_ITERATIONS, random_state=seed
      )
      with warnings.catch_warnings():
        # As there, a fit may end before it converges.
        warnings.simplefilter('ignore')
        linear.fit(train_Mm[rows], train_label_M[rows])
      found_N = linear.predict(test_Nm)
      accuracies.append((found_N == test_label_N).mean())
      f1.append(metrics.f1_score(test_label_N, found_N, **_F1))
    found = retrieval.search(test_ND, database, count, dim=width)
    label_NK = train_label_M[found.ids_QK]
    values = {'accuracy': np.mean(accuracies), 'f1': np.mean(f1)}
    for k in dict.fromkeys((1, neighbors)):
      vote_N = few_shot.vote(label_NK[:, :k])
      values[f'knn{k}'] = (vote_N == test_label_N).mean()
    return {name: 100 * x for name, x in values.items()}

  return _each(measure, dims)


def _draws(label_M: np.ndarray, seed: int) -> list[np.ndarray]:
  """Rows of a few examples of each class, as MTEB draws them."""
  order, draws = np.arange(len(label_M)), []
  for _ in range(_DRAWS):
    # The same permutation each time, of the order before.
    np.random.RandomState(seed).shuffle(order)
    label = label_M[order]
    chosen = [np.flatnonzero(label == c)[:_SHOTS] for c in np.unique(label)]
    draws.append(order[np.sort(np.concatenate(chosen))])
  return draws


def search(
  query_QD: np.ndarray,
  document_MD: np.ndarray,
  relevance: Sequence[Mapping[int, float]],
  dims: Sequence[int],
) -> Values:
  """Retrieval of documents by cosine, exact, at each width.

  `relevance[q]` has the grade of each document that is relevant to query q, by
  its row. `ndcg10` has the grades as gains, as trec_eval; `mrr10` is the mean
  reciprocal rank of the first relevant document, `recall10` and `recall100` are
  the shares of the relevant ones found, all `…@<width>`. Raises ValueError if a
  query has no relevant document.
  """
  for q, grades in enumerate(relevance):
    if not any(grade > 0 for grade in grades.values()):
      raise ValueError(f'query {q}: has no relevant document')
  # A text without a direction is found by no query, and finds none.
  rows_M, rows_Q = (
    np.flatnonzero(np.any(x[:, : dims[-1]], axis=1))
    for x in (document_MD, query_QD)
  )
  count = min(_FOUND, len(rows_M))
  database = retrieval.prepare(document_MD[rows_M], tuple(dims))

  def measure(width):
    ids_QK = np.full((len(query_QD), count), -1)
    found = retrieval.search(query_QD[rows_Q], database, count, dim=width)
    ids_QK[rows_Q] = rows_M[found.ids_QK]
    return ranked(ids_QK, relevance)

  return _each(measure, dims)


def ranked(
  ids_QK: np.ndarray, relevance: Sequence[Mapping[int, float]]
) -> Values:
  """The metrics of `search` for documents found, best first, at one width."""
  discount_K = 1 / np.log2(np.arange(2, ids_QK.shape[1] + 2))
  totals = dict.fromkeys(('ndcg10', 'mrr10', 'recall10', 'recall100'), 0.0)
  for ids_K, grades in zip(ids_QK, relevance, strict=True):
    gain_K = np.array([max(grades.get(int(i), 0), 0) for i in ids_K])
    best = sorted((x for x in grades.values() if x > 0), reverse=True)
    best_K = np.array(best[:_CUTOFF])
    ideal = best_K @ (1 / np.log2(np.arange(2, len(best_K) + 2)))
    first = np.flatnonzero(gain_K[:_CUTOFF])[:1] + 1
    totals['ndcg10'] += gain_K[:_CUTOFF] @ discount_K[:_CUTOFF] / ideal
    totals['mrr10'] += sum(1 / first)
    for k in (_CUTOFF, _FOUND):
      totals[f'recall{k}'] += np.count_nonzero(gain_K[:k]) / len(best)
  return {name: 100 * x / len(ids_QK) for name, x in totals.items()}


def _each(
  measure: Callable[[int], Values], dims: Sequence[int]
) -> dict[str, float]:
  found = {width: measure(width) for width in dims}
  names = found[dims[0]]
  return {
    f'{name}@{width}': float(found[width][name])
    for name in names
    for width in dims
  }


def _unit(x_ND: np.ndarray) -> np.ndarray:
  norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
  return x_ND / np.where(norm_N1 > 0, norm_N1, 1)


def _cosines(a_ND: np.ndarray, b_ND: np.ndarray, width: int) -> np.ndarray:
  a_NM, b_NM = (
    _unit(x[:, :width].astype(np.float64, copy=False)) for x in (a_ND, b_ND)
  )
  return np.einsum('nm,nm->n', a_NM, b_NM)
