"""Text encoders: pooling by hand, dropout, bfloat16, and attention by row."""

import functools

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax.models import attention
from mrl_jax.models import bert
from mrl_jax.models import dropout
from mrl_jax.models import modernbert
from mrl_jax.models import text

SIZES = {'vocabulary_size': 50, 'width': 16, 'depth': 1, 'num_heads': 2}
BACKBONES = {
  'bert': bert.Variant(**SIZES, hidden=24, max_tokens=12),
  'modernbert': modernbert.Variant(
    **SIZES, hidden=24, max_tokens=12, mlp_dropout=0.2, attention_dropout=0.1
  ),
}
STATES = jnp.array(
  [[[1.0, 2], [3, 4], [9, 9]], [[5, 6], [7, 8], [9, 10]], [[1, 1]] * 3]
)
MASK = jnp.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)


@pytest.mark.parametrize(
  ('pooling', 'expected'),
  [
    ('mean', [[2, 3], [7, 8], [0, 0]]),
    ('cls', [[1, 2], [5, 6], [0, 0]]),
    ('last', [[3, 4], [9, 10], [0, 0]]),
  ],
)
def test_pooling_by_hand(pooling, expected):
  np.testing.assert_allclose(text.pool(STATES, MASK, pooling), expected)


def test_normalised_zeros_stay_and_have_no_gradient():
  x = jnp.array([[3.0, 4], [0, 0]])
  np.testing.assert_allclose(text.normalised(x), [[0.6, 0.8], [0, 0]])
  gradient = jax.grad(lambda x: text.normalised(x).sum())(x)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[1], 0)


@pytest.mark.parametrize('kind', BACKBONES)
def test_dropout_bfloat16_and_remat(kind):
  settings = text.Settings(BACKBONES[kind])
  token_NT = jnp.arange(16).reshape(2, 8) + 1
  mask_NT = jnp.asarray(np.arange(8) < np.array([[8], [5]]))
  plain = text.create(settings, rngs=nnx.Rngs(0))
  remat = text.create(settings, remat=True, rngs=nnx.Rngs(0))
  low = text.create(settings, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

  run = jax.jit(lambda model: model(token_NT, mask_NT))
  whole_ND, low_ND = run(plain), run(low)
  assert low_ND.dtype == jnp.float32
  np.testing.assert_allclose(low_ND, whole_ND, atol=0.05)
  graphdef, params = nnx.split(plain)

  def drawn(params, key, graphdef=graphdef):
    embedding_ND = nnx.merge(graphdef, params)(token_NT, mask_NT, key=key)
    return embedding_ND.sum(), embedding_ND

  draw = jax.jit(jax.grad(drawn, has_aux=True))
  gradient, first_ND = draw(params, jax.random.key(0))
  _, same_ND = draw(params, jax.random.key(0))
  _, other_ND = draw(params, jax.random.key(1))
  np.testing.assert_array_equal(first_ND, same_ND)
  for x, y in ((first_ND, other_ND), (first_ND, whole_ND)):
    assert np.abs(x - y).max() > 1e-4
  again, _ = jax.jit(
    jax.grad(
      functools.partial(drawn, graphdef=nnx.graphdef(remat)), has_aux=True
    )
  )(params, jax.random.key(0))
  for x, y in zip(*map(jax.tree.leaves, (gradient, again)), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


def test_masks_of_dropout_are_fair_and_independent():
  draw = jax.jit(lambda key: dropout.keeps(key, 0.25, (64, 32, 32)))
  masks = [np.asarray(draw(jax.random.key(seed)), float) for seed in range(4)]
  for mask in masks:
    # Five standard deviations: of all draws, and of those of each place …
    assert abs(mask.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / mask.size)
    for axes in ((0, 1), (0, 2), (1, 2)):
      share = mask.mean(axes)
      size = mask.size / share.size
      assert np.abs(share - 0.75).max() < 5 * np.sqrt(0.25 * 0.75 / size)
  # … and of products of two masks, or of a mask and itself moved.
  others = [*masks[1:], *(np.roll(masks[0], 1, axis) for axis in range(3))]
  for other in others:
    both = (masks[0] - 0.75) * (other - 0.75)
    assert abs(both.mean()) < 5 * 0.25 * 0.75 / np.sqrt(both.size)
  x = dropout.dropout(jnp.full((8, 8), 3.0), 0.25, jax.random.key(0))
  assert set(np.unique(x)) == {0.0, 4.0}


@pytest.mark.parametrize('window', [None, 2])
@pytest.mark.parametrize('is_packed', [False, True])
def test_attention_by_row_and_with_dropout(monkeypatch, window, is_packed):
  monkeypatch.setattr(attention, '_SHORT', 0)
  rng = np.random.default_rng(0)
  arrays = rng.normal(size=(3, 2, 6, 2, 4)).astype(np.float32)
  mask_NT = np.arange(6) < np.array([[6], [4]])
  if is_packed:
    mask_NT = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 3, 3, 0, 0]], np.int32)
  bias = rng.normal(size=(1, 2, 6, 6)).astype(np.float32)
  options = {'bias_1HTT': jnp.asarray(bias), 'window': window}
  plain = attention.attend(*arrays, jnp.asarray(mask_NT), **options)
  by_row = attention.attend(
    *arrays, jnp.asarray(mask_NT), by_row=True, **options
  )
  np.testing.assert_allclose(by_row, plain, atol=1e-5)
  # With next to none, dropout is the same, too.
  dropped = attention.attend(
    *arrays,
    jnp.asarray(mask_NT),
    dropout=1e-9,
    rng=jax.random.key(0),
    **options,
  )
  np.testing.assert_allclose(dropped, plain, atol=1e-5)


def test_what_settings_refuse():
  with pytest.raises(ValueError, match="pooling 'max': must be one of"):
    text.Settings(BACKBONES['bert'], pooling='max')
  with pytest.raises(ValueError, match="activation 'relu': must be one of"):
    text.Projection(8, activation='relu')
  with pytest.raises(ValueError, match='num_heads 5: must divide'):
    bert.Variant(num_heads=5)
  encoder = text.create(text.Settings(BACKBONES['bert']), rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='texts of 13 tokens: must have at most'):
    encoder(jnp.ones((1, 13), jnp.int32), jnp.ones((1, 13), bool))
