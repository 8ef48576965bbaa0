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


def test_neighbor_maps_keep_groups_together():
  """Two far groups at width 2; three at width 4."""
  rng = np.random.default_rng(0)
  centers = np.array([[9, 0, 0, 0], [0, 9, 9, 0], [0, 9, 0, 9]])
  points = np.repeat(centers, 10, 0) + rng.normal(size=(30, 4)) / 10
  narrow, wide = structure.neighbor_maps(points, (2, 4), seed=0)
  distance = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)
  group = np.repeat(np.arange(3), 10)
  same = group[:, None] == group[None]
  apart = distance(wide)
  assert apart[same].max() < apart[~same].min()
  apart = distance(narrow)[:10]
  assert apart[:, :10].max() < apart[:, 10:].min()
  again = structure.neighbor_maps(points, (2, 4), seed=0)
  np.testing.assert_array_equal(wide, again[1])
  # Turning and mirroring bring it no nearer to the one before.
  np.testing.assert_allclose(structure.align(wide, narrow), wide, atol=1e-3)
  with pytest.raises(ValueError, match='3 embeddings'):
    structure.neighbor_maps(points[:3], (2, 4), seed=0)
