"""Small tables worked out by hand."""

import json

import numpy as np
import pytest

from mrl_jax.analysis import calibration
from mrl_jax.analysis import cascade
from mrl_jax.analysis import few_shot
from mrl_jax.analysis import oracle
from mrl_jax.analysis import per_example
from mrl_jax.analysis import superclass

DIMS = (2, 4, 8)
# Widths are rows; the last example is never right.
RIGHT = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], bool)
CONFIDENCE = np.array(
  [[0.9, 0.5, 0.3, 0.5], [0.9, 0.9, 0.4, 0.2], [1, 1, 1, 1]]
)


def test_outcomes_are_softmax_of_each_width(monkeypatch):
  monkeypatch.setattr(per_example, '_BLOCK', 2)
  probability = np.array([[[0.2, 0.7, 0.1], [0.4, 0.2, 0.4], [0.1, 0.1, 0.8]]])
  found = per_example.read(
    np.log(probability), np.array([2, 2, 1]), group_C=np.array([1, 0, 0])
  )
  np.testing.assert_array_equal(found.prediction_GN, [[1, 0, 2]])
  np.testing.assert_allclose(found.confidence_GN, [[0.7, 0.4, 0.8]], rtol=1e-6)
  np.testing.assert_array_equal(found.within_GN, [[1, 2, 2]])


@pytest.mark.parametrize(
  ('logit', 'label', 'message'),
  [(np.inf, 0, 'not finite'), (0, 2, 'label 2'), (0, -2, 'label -2')],
)
def test_bad_logits_and_labels_are_refused(logit, label, message):
  with pytest.raises(ValueError, match=message):
    per_example.read(np.full((1, 1, 2), logit), np.array([label]))


def test_cascade_by_hand():
  # At width 2 the first example gains where it decides, the second loses: the
  # best thresholds lie in [0.5, 0.9), the first of them above 0.5 by rounding
  # to the grid. At width 4 the first gains and the third, if decided, loses.
  fitted = cascade.fit(DIMS, CONFIDENCE, RIGHT)
  grid = cascade.THRESHOLDS
  np.testing.assert_allclose(
    fitted.thresholds, [grid[grid >= 0.5][0], grid[grid >= 0.4][0]]
  )
  np.testing.assert_array_equal(cascade.stops(fitted, CONFIDENCE), [0, 1, 2, 2])
  accuracy, last, cumulated = cascade._test(fitted, CONFIDENCE, RIGHT)
  np.testing.assert_allclose(accuracy, [1 / 4, 2 / 4, 3 / 4])
  np.testing.assert_allclose(last, [2, 14 / 4, 22 / 4])
  np.testing.assert_allclose(cumulated, [2, 20 / 4, 36 / 4])


def test_thresholds_are_the_best_of_a_brute_force_search():
  rng = np.random.default_rng(0)
  confidence, right = rng.random((2, 200)), rng.random((2, 200)) < 0.5
  accuracies = [
    np.where(confidence[0] > t, *right).mean() for t in cascade.THRESHOLDS
  ]
  best = cascade.THRESHOLDS[np.argmax(accuracies)]
  assert cascade.fit((1, 2), confidence, right).thresholds == (best,)


def test_a_confidence_at_the_threshold_does_not_decide():
  fitted = cascade.Cascade((2, 4), (0.5,))
  confidence = np.array([[0.5, 0.51], [1, 1]])
  np.testing.assert_array_equal(cascade.stops(fitted, confidence), [1, 0])


def test_a_saved_cascade_predicts(tmp_path):
  cascade.save(tmp_path / 'cascade.json', cascade.Cascade((2, 4), (0.6,)))
  loaded = cascade.load(tmp_path / 'cascade.json')
  logits = np.log([[[0.7, 0.3], [0.6, 0.4]], [[0.1, 0.9], [0.1, 0.9]]])
  found = cascade.predict(loaded, logits)
  np.testing.assert_array_equal(found, [[0, 1], [2, 4]])


@pytest.mark.parametrize(
  'content, match',
  [
    ('{"dims": [2, 4], "thresholds": []}', 'one threshold for each but'),
    ('{"dims": [4, 2], "thresholds": [0.5]}', r'dims \[4, 2\].*must increase'),
    ('{"dims": ["2", 4], "thresholds": [0.5]}', 'Expected `int`, got `str`'),
    (
      '{"dims": [2, 4], "thresholds": [0.5], "temperature": 0}',
      'temperature 0: .*positive',
    ),
  ],
)
def test_what_is_no_cascade(tmp_path, content, match):
  (tmp_path / 'cascade.json').write_text(content)
  with pytest.raises(ValueError, match=match):
    cascade.load(tmp_path / 'cascade.json')


def test_a_cascade_asks_no_more_widths_than_it_needs(tmp_path):
  logits = np.random.default_rng(0).normal(size=(3, 50, 4)) * [
    [[1]],
    [[2]],
    [[3]],
  ]
  one = cascade.Cascade((2, 4, 8), (0.5, 0.7), temperature=0.5)
  asked = []

  def logits_of(g, rows):
    asked.append(len(rows))
    return logits[g, rows]

  found = cascade.walk(one, logits_of, 50)
  np.testing.assert_array_equal(found, cascade.predict(one, logits))
  assert [*asked] == [50, (found[1] > 2).sum(), (found[1] > 4).sum()]
  assert 0 < asked[2] < asked[1] < 50
  cascade.save(tmp_path / 'cascade.json', one)
  assert cascade.load(tmp_path / 'cascade.json') == one
  # Half the temperature is twice the logits.
  warm = one._replace(temperature=1.0)
  np.testing.assert_array_equal(found, cascade.predict(warm, 2 * logits))


def test_cascade_repeats_are_seeded_and_need_examples():
  one, same, other = (
    cascade.measure(DIMS, CONFIDENCE, RIGHT, fit_share=0.5, seed=seed)
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one.accuracy, same.accuracy)
  assert (one.accuracy[0] != other.accuracy[0]).any()
  with pytest.raises(ValueError, match='4 examples: too few'):
    cascade.measure(DIMS, CONFIDENCE, RIGHT, fit_share=0.1)


def test_oracle_counts_the_never_right_apart():
  found = oracle.oracle(DIMS, RIGHT)
  np.testing.assert_array_equal(found.count_G, [1, 1, 1])
  assert (found.never, found.accuracy) == (1, 3 / 4)
  assert found.expected_dim == (2 + 4 + 8) / 3


def test_an_oracle_that_is_never_right():
  found = oracle.oracle(DIMS, np.zeros((3, 4), bool))
  assert (found.never, found.accuracy) == (4, 0)
  assert np.isnan(found.expected_dim)


def test_votes_and_agreement_by_hand():
  prediction = np.array([[5, 3, 1], [5, 1, 2], [0, 2, 2]])
  np.testing.assert_array_equal(oracle.majority(prediction), [5, 1, 2])
  expected = np.array([[3, 1, 0], [1, 3, 1], [0, 1, 3]]) / 3
  np.testing.assert_allclose(oracle.agreement(prediction), expected)


def test_classes_get_better_and_worse():
  accuracy = oracle.per_class(RIGHT, np.array([0, 1, 1, 3]), 4)
  np.testing.assert_allclose(
    accuracy, [[1, 0, np.nan, 0], [1, 0.5, np.nan, 0], [0, 1, np.nan, 0]]
  )
  assert oracle.trends(accuracy) == ['worse', 'better', 'absent', 'level']
  turning = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1]])
  assert oracle.trends(turning) == ['rises, dips', 'dips, rises', 'mixed']


def test_calibration_by_hand():
  # Bins (0, .5] and (.5, 1]: gaps of .4 + .5 - 1 and .8 + .6 - 1 examples.
  confidence = np.array([[0.4, 0.5, 0.8, 0.6]])
  right = np.array([[1, 0, 1, 0]], bool)
  found = calibration.bin_confidences(confidence, right, bins=2)
  np.testing.assert_allclose(found.error_G, [(0.1 + 0.4) / 4])
  np.testing.assert_allclose(found.confidence_GB, [[0.45, 0.7]])
  np.testing.assert_allclose(found.accuracy_GB, [[0.5, 0.5]])
  np.testing.assert_array_equal(found.count_GB, [[2, 2]])
  empty = calibration.bin_confidences(confidence, right, bins=4)
  assert np.isnan(empty.accuracy_GB[0, 0]) and empty.count_GB[0, 0] == 0
  with pytest.raises(ValueError, match=r'\(1, 4\), results \(1, 2\)'):
    calibration.bin_confidences(confidence, right[:, :2])


def test_superclasses_by_hand():
  group = np.array([0, 1, 1])  # Class 0 is rejected.
  label = np.array([0, 1, 1, 2])
  found = superclass.group_errors(
    per_example.Outcomes(
      np.array([[0, 2, 0, 2]]), None, np.array([[0, 2, 1, 2]])
    ),
    label,
    group,
    2,
  )
  np.testing.assert_allclose(found.accuracy_G, [3 / 4])
  np.testing.assert_allclose(found.accuracy_GS, [[1, 2 / 3]])
  np.testing.assert_allclose(found.inside_GS, [[0, 1 / 3]])
  np.testing.assert_allclose(found.across_GS, [[0, 1 / 3]])
  np.testing.assert_allclose(found.within_GS, [[1, 2 / 3]])


def test_a_mapping_file_and_its_unknown_classes(tmp_path):
  path = tmp_path / 'groups.json'
  path.write_text(json.dumps({'cat': 'animal', 'dog': 'animal'}))
  group, names = superclass.load_groups(path, ('car', 'cat', 'dog'))
  assert (group.tolist(), names) == ([0, 1, 1], ('reject', 'animal'))
  with pytest.raises(ValueError, match='unknown classes cat, dog'):
    superclass.load_groups(path, ('car',))


def test_few_shot_by_hand():
  support = np.array([[1.0, 0], [1, 0.2], [0, 1], [0.2, 1]])
  query = np.array([[5.0, 1], [1, 5], [5, 1]])
  label = np.array([0, 0, 1, 1])
  inputs = support, label, query, np.array([0, 1, 1])
  found = few_shot.few_shot(*inputs, dims=(1, 2), shots=2)
  # At width 1 all are the same, and the lower class has them all.
  np.testing.assert_allclose(found.mean, [1 / 3, 2 / 3])
  np.testing.assert_array_equal(found.std, [0, 0])
  with pytest.raises(ValueError, match='class 0 has 2 examples: 3 shots'):
    few_shot.few_shot(*inputs, dims=(2,), shots=3)
  with pytest.raises(ValueError, match=r'ways 3: must be in \[2, 2\]'):
    few_shot.few_shot(*inputs, dims=(2,), shots=1, ways=3)


def test_few_shot_leaves_out_rows_and_classes():
  rng = np.random.default_rng(0)
  support, query = rng.normal(size=(2, 40, 4))
  label = np.repeat([-1, 0, 1, 2], 10)  # -1 is none of the queries' classes.
  query_label = np.repeat([0, 1, 2, 2], 10)
  one, same, other = (
    few_shot.few_shot(
      support,
      label,
      query,
      query_label,
      dims=(2, 4),
      shots=3,
      ways=2,
      repeats=4,
      seed=seed,
    )
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one.mean, same.mean)
  assert (one.mean != other.mean).any() and (one.std > 0).all()


def test_few_shot_agrees_with_a_plain_loop(monkeypatch):
  monkeypatch.setattr(few_shot, '_BLOCK', 7)
  rng = np.random.default_rng(0)
  support, query = rng.normal(size=(12, 6)), rng.normal(size=(20, 6))
  label, query_label = np.arange(12) % 3, rng.integers(0, 3, 20)
  found = few_shot.few_shot(
    support, label, query, query_label, dims=(2, 6), shots=4, repeats=1
  )
  for dim, accuracy in zip((2, 6), found.mean, strict=True):
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    rows = unit(support[:, :dim])
    means = unit(np.stack([rows[label == c].mean(0) for c in range(3)]))
    nearest = (query[:, :dim] @ means.T).argmax(1)
    np.testing.assert_allclose(accuracy, (nearest == query_label).mean())


def test_votes_of_neighbours():
  labels = np.array([[4, 2, 2], [4, 2, 3]])
  np.testing.assert_array_equal(few_shot.vote(labels), [2, 4])
