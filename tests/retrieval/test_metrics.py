import numpy as np
import pytest

from mrl_jax.retrieval import metrics

# Relevant: [1 0 1 1] and [0 0 1 0].
NEIGHBORS = np.array([[7, 8, 7, 7], [7, 8, 9, 8]])
QUERIES = np.array([7, 9])


def test_by_hand():
  accuracy = lambda k: metrics.top_k_accuracy(NEIGHBORS, QUERIES, k)
  assert [accuracy(1), accuracy(2), accuracy(3)] == [0.5, 0.5, 1.0]
  assert metrics.precision_at_k(NEIGHBORS, QUERIES, 4) == (3 / 4 + 1 / 4) / 2
  np.testing.assert_allclose(
    metrics.recall_at_k(NEIGHBORS, QUERIES, 4), (3 + 1) / 2 / 1300
  )
  recall = metrics.recall_at_k(
    NEIGHBORS, QUERIES, 4, num_relevant=np.array([6, 2])
  )
  np.testing.assert_allclose(recall, (3 / 6 + 1 / 2) / 2)


def test_mean_average_precision_by_hand():
  # The first query's precisions at its hits are 1/1, 2/3, 3/4; the second's is
  # 1/3. The paper divides by k.
  first, second = 1 + 2 / 3 + 3 / 4, 1 / 3
  mean = metrics.mean_average_precision(NEIGHBORS, QUERIES, 4)
  np.testing.assert_allclose(mean, (first / 4 + second / 4) / 2)
  mean = metrics.mean_average_precision(
    NEIGHBORS,
    QUERIES,
    4,
    ap_denominator='min(k,R)',
    num_relevant=np.array([3, 100]),
  )
  np.testing.assert_allclose(mean, (first / 3 + second / 4) / 2)
  mean = metrics.mean_average_precision(NEIGHBORS, QUERIES, 2)
  np.testing.assert_allclose(mean, (1 / 2 + 0) / 2)


def test_equals_a_loop():
  rng = np.random.default_rng(0)
  neighbors, queries = rng.integers(0, 3, (50, 20)), rng.integers(0, 3, 50)
  total = 0
  for row, label in zip(neighbors, queries, strict=True):
    hits = 0
    for i, neighbor in enumerate(row[:10], start=1):
      hits += neighbor == label
      total += (neighbor == label) * hits / i / 10
  np.testing.assert_allclose(
    metrics.mean_average_precision(neighbors, queries, 10), total / 50
  )


def test_summary_equals_the_functions():
  rng = np.random.default_rng(0)
  neighbors, queries = rng.integers(0, 9, (40, 30)), rng.integers(0, 9, 40)
  # At least as many as the hits, fewer than the largest k.
  relevant = (neighbors == queries[:, None]).sum(1) + 1
  for name in ('k', 'min(k,R)'):
    values = metrics.summary(
      neighbors, queries, (5, 1, 30), ap_denominator=name, num_relevant=relevant
    )
    assert len(values) == 15
    for k in (1, 5, 30):
      args = (neighbors, queries, k)
      np.testing.assert_allclose(
        [values[f'{x}{k}'] for x in ('top', 'p', 'r', 'map', 'distinct')],
        [
          metrics.top_k_accuracy(*args),
          metrics.precision_at_k(*args),
          metrics.recall_at_k(*args, num_relevant=relevant),
          metrics.mean_average_precision(
            *args, ap_denominator=name, num_relevant=relevant
          ),
          metrics.distinct_labels(neighbors, k),
        ],
      )
  assert 'r1' not in metrics.summary(neighbors, queries, (1,))


def test_count_relevant_by_hand():
  counts = metrics.count_relevant(
    np.array([5, 3, 5, 9]), np.array([9, 5, 4, 10])
  )
  assert counts.tolist() == [1, 2, 0, 0]


def test_k_recall_by_hand():
  # Two of two, one of two; -1 was not found, a row listed twice counts once.
  found = np.array([[4, 0, 9], [7, 7, -1]])
  assert metrics.k_recall(found, np.array([[0, 4], [7, 1]])) == 3 / 4
  assert metrics.k_recall(found, np.array([[9], [0]])) == 1 / 2


def test_distinct_labels_by_hand():
  assert metrics.distinct_labels(NEIGHBORS, 1) == 1
  assert metrics.distinct_labels(NEIGHBORS, 4) == (2 + 3) / 2


@pytest.mark.parametrize('k', [0, 5])
def test_k_outside(k):
  with pytest.raises(ValueError, match=f'k {k}'):
    metrics.precision_at_k(NEIGHBORS, QUERIES, k)


def test_refuses():
  with pytest.raises(ValueError, match=r'\(1,\)'):
    metrics.top_k_accuracy(NEIGHBORS, QUERIES[:1])
  with pytest.raises(ValueError, match='num_relevant 0'):
    metrics.recall_at_k(NEIGHBORS, QUERIES, 1, num_relevant=0)
  for kwargs in ({'ap_denominator': 'min(k,R)'}, {'ap_denominator': 'R'}):
    with pytest.raises(ValueError, match='ap_denominator'):
      metrics.mean_average_precision(NEIGHBORS, QUERIES, 1, **kwargs)


def test_float_labels_are_refused():
  for bad in (np.float16, np.float32, bool):
    with pytest.raises(ValueError, match=np.dtype(bad).name):
      metrics.top_k_accuracy(NEIGHBORS, QUERIES.astype(bad))
    with pytest.raises(ValueError, match=np.dtype(bad).name):
      metrics.summary(NEIGHBORS.astype(bad), QUERIES, (1,))
    with pytest.raises(ValueError, match=np.dtype(bad).name):
      metrics.count_relevant(QUERIES.astype(bad), QUERIES)


def test_summary_refuses():
  for ks in ((0, 1), (1, 5)):
    with pytest.raises(ValueError, match=r'k [05]: must be in \[1, 4\]'):
      metrics.summary(NEIGHBORS, QUERIES, ks)
  with pytest.raises(ValueError, match=r'\(1,\)'):
    metrics.summary(NEIGHBORS, QUERIES[:1], (1,))
  with pytest.raises(ValueError, match='num_relevant 0'):
    metrics.summary(NEIGHBORS, QUERIES, (1,), num_relevant=np.array([3, 0]))


def test_k_recall_refuses_ids_of_another_length():
  with pytest.raises(ValueError, match=r'\(2, 4\).*\(1, 4\)'):
    metrics.k_recall(NEIGHBORS, NEIGHBORS[:1])
