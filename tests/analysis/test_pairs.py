"""Zero-shot and retrieval of images and texts, by hand and by brute force."""

import numpy as np
import pytest

from mrl_jax.analysis import pairs

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(12, 8)).astype(np.float32)
TEXT = (IMAGE + RNG.normal(size=(12, 8))).astype(np.float32)
DIMS = (2, 8)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_prompts():
  found = pairs.prompts(['cat', 'dog {}'], ['a {}.', '{}'])
  assert found == ['a cat.', 'cat', 'a dog {}.', 'dog {}']
  with pytest.raises(ValueError, match="template 'a picture': must have"):
    pairs.prompts(['cat'], ['a {}', 'a picture'])
  with pytest.raises(ValueError, match='1 classes and 0 templates'):
    pairs.prompts(['cat'], [])


def test_zero_shot_by_hand():
  # Prompts of length 1 and 2, whose mean direction counts each alike.
  text_CTD = np.array([[[1.0, 0], [0, 2]], [[-1, 0], [-2, 0]]])
  np.testing.assert_allclose(
    pairs.class_vectors(text_CTD, 2), [[0.5**0.5] * 2, [-1, 0]]
  )
  image_ND = np.array([[1.0, 1], [-3, 1], [-1, 4]])
  label_N = np.array([0, 1, 1])
  found = pairs.zero_shot(image_ND, text_CTD, label_N, (1, 2))
  assert found == {1: 100.0, 2: pytest.approx(200 / 3)}


def test_recalls_are_those_of_brute_force():
  # Two texts for each image, and images by texts.
  number_M = np.repeat(np.arange(6), 2)
  query_ND, number_N = IMAGE[::2], np.arange(6)
  found = pairs.recalls(query_ND, TEXT, number_N, number_M, DIMS, (1, 5, 50))
  for dim in DIMS:
    cosine_NM = unit(query_ND[:, :dim]) @ unit(TEXT[:, :dim]).T
    own_NM = number_N[:, None] == number_M[None]
    best_N = np.where(own_NM, cosine_NM, -2).max(1)
    rank_N = (cosine_NM > best_N[:, None]).sum(1)
    right = {k: 100 * np.mean(rank_N < k) for k in (1, 5)}
    assert found[dim] == pytest.approx(right)


def test_similarity():
  found = pairs.similarity(IMAGE, TEXT, DIMS)
  for dim in DIMS:
    cosine_NN = unit(IMAGE[:, :dim]) @ unit(TEXT[:, :dim]).T
    is_pair_NN = np.eye(12, dtype=bool)
    np.testing.assert_allclose(
      found[dim],
      (cosine_NN[is_pair_NN].mean(), cosine_NN[~is_pair_NN].mean()),
      rtol=1e-4,
    )
