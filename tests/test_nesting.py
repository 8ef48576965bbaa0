import re

import jax
import numpy as np
import pytest

from mrl_jax import nesting


def test_doubling_gives_the_papers_sets():
  assert nesting.doubling(8, 2048) == (
    8, 16, 32, 64, 128, 256, 512, 1024, 2048,
  )  # fmt: skip
  assert nesting.doubling(12, 768) == (12, 24, 48, 96, 192, 384, 768)
  assert nesting.doubling(8, 100) == (8, 16, 32, 64, 100)
  assert nesting.doubling(5, 5) == (5,)


@pytest.mark.parametrize('first, last', [(0, 8), (-1, 8), (16, 8)])
def test_doubling_refuses(first, last):
  with pytest.raises(ValueError, match=str(first)):
    nesting.doubling(first, last)


def test_validate_returns_a_tuple():
  assert nesting.validate([1, 7, 64], 64) == (1, 7, 64)


@pytest.mark.parametrize(
  'dims, culprit',
  [
    ((), 'empty'),
    ((0, 8), '0 is not positive'),
    ((-8, 8), '-8 is not positive'),
    ((8, 8), '8 after 8'),
    ((8, 16, 12), '12 after 16'),
    ((8, 128), '128 is beyond the embedding width 64'),
    ((8, 16.5), 'integer'),
    (('8', '16'), 'integer'),
  ],
)
def test_validate_refuses(dims, culprit):
  with pytest.raises(ValueError, match=culprit):
    nesting.validate(dims, 64)


def test_weights():
  assert nesting.validate_weights(None, 3) == (1.0, 1.0, 1.0)
  assert nesting.validate_weights((), 2) == (1.0, 1.0)
  assert nesting.validate_weights((2, 0, 1), 3) == (2.0, 0.0, 1.0)


@pytest.mark.parametrize(
  'weights', [(1, 2), (1, -1, 1), (1, float('nan'), 1), (0, 0, 0)]
)
def test_weights_refuses(weights):
  with pytest.raises(ValueError, match='nesting_weights'):
    nesting.validate_weights(weights, 3)


def test_presets():
  assert nesting.validate_weights('8boost', 3) == (2, 1, 1)
  assert nesting.validate_weights(('8+16boost',), 4) == (2, 1.5, 1, 1)
  assert nesting.validate_weights(['8boost'], 1) == (2,)


@pytest.mark.parametrize('name, count', [('9boost', 3), ('8+16boost', 1)])
def test_presets_refuse(name, count):
  with pytest.raises(ValueError, match=re.escape(f"'{name}' for {count}")):
    nesting.validate_weights((name,), count)


def test_sampled_weights_keep_the_expectation():
  weights_G = (2.0, 1.0, 1.0, 0.5)
  keys = jax.random.split(jax.random.key(0), 3000)
  sampled_KG = np.asarray(
    jax.vmap(lambda key: nesting.sample_weights(key, weights_G, 2))(keys)
  )
  # The widest is always in, and one of the three others.
  assert (sampled_KG[:, 3] == 0.5).all()
  assert ((sampled_KG > 0).sum(1) == 2).all()
  np.testing.assert_allclose(sampled_KG.mean(0), weights_G, rtol=0.1)
  whole_G = nesting.sample_weights(keys[0], weights_G, 4)
  np.testing.assert_allclose(whole_G, weights_G)


@pytest.mark.parametrize('per_step', [1, -1, 5])
def test_granularities_per_step_refuses(per_step):
  assert nesting.validate_per_step(0, 4) == 4
  with pytest.raises(ValueError, match=f'granularities_per_step {per_step}'):
    nesting.validate_per_step(per_step, 4)
