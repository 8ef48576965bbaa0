"""Quality of text embeddings: by hand, by scikit-learn, by the peer."""

import numpy as np
import pytest

from mrl_jax.analysis import texts

DIMS = (2, 5)


def vectors(count, seed=0):
  return np.random.default_rng(seed).standard_normal((count, 6), np.float32)


def test_ranked_documents_by_hand():
  # The first query's best document comes second, another of grade 1 fourth.
  ids_QK = np.array([[7, 3, 8, 5, 9], [1, 2, 4, 6, 0]])
  relevance = [{3: 2, 5: 1, 40: 1}, {0: 1, 9: 0}]
  found = texts.ranked(ids_QK, relevance)
  ideal = 2 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)
  first = (2 / np.log2(3) + 1 / np.log2(5)) / ideal
  second = (1 / np.log2(6)) / 1
  np.testing.assert_allclose(found['ndcg10'], 50 * (first + second))
  np.testing.assert_allclose(found['mrr10'], 50 * (1 / 2 + 1 / 5))
  np.testing.assert_allclose(found['recall10'], 50 * (2 / 3 + 1))


def test_ndcg_equals_scikit_learn():
  from sklearn import metrics

  query_QD, document_MD = vectors(4), vectors(30, 1)
  rng = np.random.default_rng(2)
  grade_QM = rng.integers(0, 4, (4, 30)) * (rng.random((4, 30)) < 0.3)
  relevance = [dict(enumerate(row.tolist())) for row in grade_QM]
  found = texts.search(query_QD, document_MD, relevance, DIMS)
  for width in DIMS:
    unit = lambda x, m=width: (
      x[:, :m] / np.linalg.norm(x[:, :m], axis=1, keepdims=True)
    )
    score_QM = unit(query_QD) @ unit(document_MD).T
    right = 100 * metrics.ndcg_score(grade_QM, score_QM, k=10)
    np.testing.assert_allclose(found[f'ndcg10@{width}'], right, rtol=1e-6)


def test_a_text_without_direction_finds_nothing():
  query_QD, document_MD = vectors(2), vectors(12, 1)
  query_QD[1] = document_MD[3] = 0
  document_MD[5] = query_QD[0]
  found = texts.search(query_QD, document_MD, [{5: 1}, {0: 1}], (6,))
  assert (found['ndcg10@6'], found['recall100@6']) == (50, 50)
  with pytest.raises(ValueError, match='query 1: has no relevant document'):
    texts.search(query_QD, document_MD, [{5: 1}, {0: 0}], (6,))


def test_vectors_that_are_all_the_same_have_no_correlation():
  same_ND = np.ones((4, 6), np.float32)
  found = texts.similarity(same_ND, same_ND, np.arange(4.0), (6,))
  assert found == {'spearman@6': 0, 'pearson@6': 0}


def test_clusters_far_apart_are_found():
  label_N = np.repeat(np.arange(3), 20)
  center_KD = np.zeros((3, 6), np.float32)
  center_KD[[0, 1, 2], [0, 1, 4]] = 10
  embedding_ND = center_KD[label_N] + 0.1 * vectors(60)
  found = texts.clustering(embedding_ND, label_N, (2, 6))
  # Two of the classes are apart in the first two numbers.
  assert found['v_measure@6'] == pytest.approx(100)
  assert found['v_measure@2'] < 95


def test_classification_equals_scikit_learn():
  """As MTEB's task: its draws, its linear classifier, and its k-NN."""
  from sklearn import linear_model
  from sklearn import metrics
  from sklearn import neighbors
  from sklearn import preprocessing

  train_MD, test_ND = vectors(60), vectors(30, 1)
  train_label_M = (train_MD[:, 0] + 0.5 * train_MD[:, 3] > 0.4).astype(int)
  test_label_N = (test_ND[:, 0] + 0.5 * test_ND[:, 3] > 0.4).astype(int)
  found = texts.classification(
    train_MD, train_label_M, test_ND, test_label_N, DIMS, neighbors=3, seed=42
  )
  assert list(found)[::2] == ['accuracy@2', 'f1@2', 'knn1@2', 'knn3@2']
  for width in DIMS:
    train, test = (
      preprocessing.normalize(x[:, :width]) for x in (train_MD, test_ND)
    )
    places, scores = list(range(60)), []
    for _ in range(10):
      np.random.RandomState(42).shuffle(places)
      seen, chosen = [0, 0], []
      for i in places:
        if seen[train_label_M[i]] < 8:
          chosen.append(i)
          seen[train_label_M[i]] += 1
      linear = linear_model.LogisticRegression(max_iter=100, random_state=42)
      predicted = linear.fit(train[chosen], train_label_M[chosen]).predict(test)
      scores.append(
        (
          metrics.accuracy_score(test_label_N, predicted),
          metrics.f1_score(test_label_N, predicted, average='macro'),
        )
      )
    accuracy, f1 = 100 * np.mean(scores, 0)
    assert found[f'accuracy@{width}'] == pytest.approx(accuracy)
    assert found[f'f1@{width}'] == pytest.approx(f1)
    for k in (1, 3):
      near = neighbors.KNeighborsClassifier(k, metric='cosine')
      right = 100 * near.fit(train, train_label_M).score(test, test_label_N)
      assert found[f'knn{k}@{width}'] == pytest.approx(right)


def test_a_class_without_training_texts_is_wrong():
  train_MD = np.eye(4, 6, dtype=np.float32)
  found = texts.classification(
    train_MD, np.array([0, 1, 0, 1]), train_MD, np.array([0, 1, 2, 2]), (6,)
  )
  assert found['knn1@6'] == 50 and found['accuracy@6'] == 50


def test_equals_sentence_transformers():
  """Their evaluators on the same vectors, by a model that looks them up."""
  pytest.importorskip('torch')
  evaluation = pytest.importorskip('sentence_transformers.evaluation')
  from sentence_transformers import util

  a_ND, b_ND = vectors(40), vectors(40, 1)
  score_N = np.random.default_rng(3).random(40)
  tables = {'a': a_ND, 'b': b_ND}

  class Model:
    """Embeds `a3` as row 3 of the first table."""

    similarity_fn_name = 'cosine'
    similarity = staticmethod(util.cos_sim)
    similarity_pairwise = staticmethod(util.pairwise_cos_sim)

    def __init__(self, width):
      self.width = width

    def encode(self, sentences, convert_to_tensor=False, **_):
      rows = np.stack([tables[x[0]][int(x[1:])] for x in sentences])
      rows = rows[:, : self.width]
      if not convert_to_tensor:
        return rows
      import torch

      return torch.tensor(rows)

    encode_query = encode_document = encode

    @property
    def model_card_data(self):
      return type('Card', (), {'set_evaluation_metrics': lambda *_: None})()

  a, b = ([f'{name}{i}' for i in range(40)] for name in 'ab')
  sts = texts.similarity(a_ND, b_ND, score_N, DIMS)
  relevance = [{i: 1, (i + 7) % 40: 1} for i in range(40)]
  searched = texts.search(a_ND, b_ND, relevance, DIMS)
  is_pair_N = score_N > 0.6
  classified = texts.pair_classification(a_ND, b_ND, is_pair_N, DIMS)
  for width in DIMS:
    model = Model(width)
    theirs = evaluation.EmbeddingSimilarityEvaluator(
      a, b, score_N.tolist(), write_csv=False
    )(model)
    for name in ('spearman', 'pearson'):
      right = 100 * theirs[f'{name}_cosine']
      assert sts[f'{name}@{width}'] == pytest.approx(right, rel=1e-5)
    theirs = evaluation.BinaryClassificationEvaluator(
      a, b, is_pair_N.astype(int).tolist(), write_csv=False
    )(model)
    right = 100 * theirs['cosine_ap']
    assert classified[f'ap@{width}'] == pytest.approx(right, rel=1e-5)
    theirs = evaluation.InformationRetrievalEvaluator(
      dict(zip(a, a, strict=True)),
      dict(zip(b, b, strict=True)),
      {
        x: {b[j] for j in grades}
        for x, grades in zip(a, relevance, strict=True)
      },
      precision_recall_at_k=[10],
      write_csv=False,
    )(model)
    for ours, name in (
      ('ndcg10', 'cosine_ndcg@10'),
      ('mrr10', 'cosine_mrr@10'),
      ('recall10', 'cosine_recall@10'),
    ):
      right = 100 * theirs[name]
      assert searched[f'{ours}@{width}'] == pytest.approx(right, rel=1e-5)
