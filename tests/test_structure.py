"""PCA, alignment and neighbourhoods on points whose answer is known."""

import numpy as np
import pytest

from mrl_jax.analysis import structure


def test_explained_variance_by_hand():
  points = np.array([[1, 0, 2], [-1, 0, -2]])
  found = structure.explained_variance(points, (1, 2, 3))
  np.testing.assert_allclose(found, [1 / 5, 1 / 5, 1])
  with pytest.raises(ValueError, match='no variance'):
    structure.explained_variance(np.ones((2, 3)), (1, 3))
  with pytest.raises(ValueError, match='1 embeddings'):
    structure.explained_variance(points[:1], (1, 3))


def test_a_turned_and_mirrored_cloud_is_turned_back():
  target = np.random.default_rng(0).normal(size=(20, 2))
  turned = target @ np.array([[0, 1], [1, 0]]) + 3
  found = structure.align(turned, target)
  np.testing.assert_allclose(found, target - target.mean(0, keepdims=True))


def test_projections_keep_distances_and_follow_each_other():
  points = np.random.default_rng(0).normal(size=(30, 4)) * [3, 2, 0.1, 0.1]
  one, two, four = structure.project(points, (1, 2, 4))
  assert not one[:, 1].any()
  distance = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)
  np.testing.assert_allclose(distance(two), distance(points[:, :2]), rtol=1e-4)
  assert np.abs(four - two).max() < 0.5  # In place, not mirrored.


def test_neighborhood_overlap_by_hand():
  ids = np.array([[[1, 2], [3, 4]], [[2, 5], [4, 3]]])
  expected = (1 / 3 + 1) / 2
  np.testing.assert_allclose(
    structure.neighborhood_overlap(ids), [[1, expected], [expected, 1]]
  )
