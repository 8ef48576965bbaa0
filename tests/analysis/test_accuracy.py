"""Top-k, 1-NN, k-NN and few-shot of small sets, worked out by hand."""

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.analysis import accuracy

SETTINGS = accuracy.Settings(
  widths=(1, 2), neighbors=3, shots=(1, 2), ways=(0, 10), repeats=1, seed=0
)
# Three classes of the model, of which the first two are one of the set.
OF_MODEL = np.array([0, 0, 1])
TRAIN = np.array([[1, 0.1], [1, 0.2], [1, 0.3], [0.1, 1], [0.2, 1]], np.float32)
TRAIN_LABEL = np.array([0, 1, 1, 2, 2])
QUERY = np.array([[2, 0.1], [1, 3], [1, 2]], np.float32)


def training():
  return accuracy.TrainingSet(
    retrieval.prepare(TRAIN, (1, 2)), TRAIN, TRAIN_LABEL
  )


def seen(top_GNK, labels, query_QD=QUERY):
  G, N, _ = top_GNK.shape
  loss_GN = np.arange(G * N).reshape(G, N)
  return accuracy.Outputs(
    (1, 2), loss_GN, top_GNK, labels, np.arange(N), query_QD
  )


def test_a_set_with_classes_of_its_own():
  top_GNK = np.array([[[1, 0], [1, 0], [0, 1]], [[0, 1], [1, 0], [1, 0]]])
  found = accuracy.measure(
    SETTINGS,
    seen(top_GNK, np.array([0, 1, 1])),
    training(),
    num_set_classes=2,
    of_model_C=OF_MODEL,
  )
  values = found.values
  assert (values['loss@1'], values['loss@2']) == (1, 4)
  np.testing.assert_allclose(values['top1@1'], 100 / 3)
  assert values['top1@2'] == values['top5@1'] == 100
  assert values['knn1@2'] == values['knn3@2'] == 100
  # At width 1 all are as near, and the first is the nearest.
  np.testing.assert_allclose(values['knn1@1'], 100 / 3)
  np.testing.assert_array_equal(found.per_class_GS, [[0, 50], [100, 100]])
  # Never more ways than classes: both settings are the same.
  assert [x['name'] for x in found.few_shot] == ['shot1way2', 'shot2way2']
  assert values['shot2way2@2'] == 100


def test_an_example_with_several_labels_or_none():
  top_GNK = np.array([[[2, 0], [1, 0], [1, 0]]] * 2)
  found = accuracy.measure(
    SETTINGS,
    seen(top_GNK, np.array([0, 1, 1])),
    training(),
    num_set_classes=3,
    of_model_C=np.arange(3),
    labels=[(2, 0), (), (2,)],
  )
  # Of two that count the first is right.
  assert found.values['top1@1'] == found.values['top5@1'] == 50
  # The nearest are 0, and 2 for the last.
  assert found.values['knn1@2'] == 100
  assert not [
    name for name in found.values if name.startswith(('loss', 'shot'))
  ]
  with pytest.raises(ValueError, match='no example of the set has a label'):
    accuracy.measure(
      SETTINGS,
      seen(top_GNK, np.array([0, 1, 1])),
      training(),
      num_set_classes=3,
      of_model_C=np.arange(3),
      labels=[()] * 3,
    )


def test_a_neighbour_of_a_class_that_the_set_lacks_is_wrong():
  found = accuracy.measure(
    SETTINGS,
    seen(np.zeros((2, 1, 1), int), np.array([0]), QUERY[1:2]),
    training(),
    num_set_classes=1,
    of_model_C=np.array([0, 0, -1]),
  )
  assert (found.values['top1@2'], found.values['knn1@2']) == (100, 0)
  assert found.notes == ['few-shot: left out, as all examples are of one class']


def test_shots_that_a_class_cannot_give_are_told():
  found = accuracy.measure(
    SETTINGS._replace(shots=(2, 3)),
    seen(np.zeros((2, 3, 1), int), np.array([0, 1, 1])),
    training(),
    num_set_classes=2,
    of_model_C=OF_MODEL,
  )
  assert [x['shots'] for x in found.few_shot] == [2]
  assert 'few-shot: 3 shots left out, as a class has 2' in found.notes[0]


def test_a_set_in_its_own_split():
  """No row is its own neighbour, and the one of label -1 does not count."""
  rows = np.array([[1, 0], [1, 0.2], [0.1, 1], [0.3, 1]], np.float32)
  own = accuracy.TrainingSet(
    retrieval.prepare(rows, (1, 2)), rows, np.array([0, 1, 1, 1]), True
  )
  query_QD = np.insert(rows, 2, [1, 0.1], axis=0)
  found = accuracy.measure(
    SETTINGS,
    seen(np.ones((2, 5, 1), int), np.array([0, 1, -1, 1, 1]), query_QD),
    own,
    num_set_classes=2,
    of_model_C=np.arange(2),
  )
  values = found.values
  # Means of (0, 1, 3, 4) and (5, 6, 8, 9).
  assert (values['loss@1'], values['loss@2']) == (2, 7)
  assert values['top1@1'] == values['top1@2'] == 75
  # The first two are nearest to each other, and so are the last two. At width 1
  # all are as near: the nearest is the first other.
  assert (values['knn1@1'], values['knn1@2']) == (0, 50)
  # The three others: only the first has no other of its class.
  assert values['knn3@1'] == values['knn3@2'] == 75
  np.testing.assert_array_equal(found.per_class_GS, [[0, 100]] * 2)
  assert not found.few_shot
  assert 'few-shot is left out' in found.notes[0]
