"""Towers of images and texts; the text transformers of CLIP and SigLIP."""

import dataclasses

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import losses
from mrl_jax.models import clip_text
from mrl_jax.models import text
from mrl_jax.models import towers
from mrl_jax.models import vit

IMAGE = vit.Variant(8, depth=1, num_heads=2, patch=4, pooling='attention')
TEXT = clip_text.Variant(
  vocabulary_size=20, width=12, depth=2, num_heads=2, hidden=16, max_tokens=6
)
PIXELS = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
TOKENS = jnp.array([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]])
MASK = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)


def make(dims=(2, 8), **options):
  rngs = nnx.Rngs(0)
  settings = text.Settings(TEXT, pooling='last', normalise=False)
  projection = text.Projection(8, use_bias=False)
  return towers.Towers(
    vit.ViT(IMAGE, image_size=8, rngs=rngs),
    text.create(settings, rngs=rngs),
    dims,
    **{'text_projection': projection, 'rngs': rngs, **options},
  )


def test_frozen_towers_have_no_gradient():
  model = make(kind='sigmoid', frozen=('image',))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.jit
  def run(params):
    loss = lambda params: nnx.merge(graphdef, params, rest).loss(
      PIXELS, TOKENS, MASK
    )
    return jax.value_and_grad(loss, has_aux=True)(params)

  (loss, loss_G), grads = run(params)
  np.testing.assert_allclose(loss, loss_G.sum(), rtol=1e-6)
  norms = {
    name: max(float(abs(x).max()) for x in jax.tree.leaves(part))
    for name, part in grads.items()
  }
  assert norms.pop('image') == 0
  assert norms.keys() >= {'text', 'text_projection', 'log_scale'}
  assert min(norms.values()) > 0
  # A temperature and a bias of every width.
  assert (grads['log_scale'][...] != 0).all() and len(loss_G) == 2
  assert (grads['bias'][...] != 0).all()


def test_the_scale_grows_no_further_than_clip_s():
  model = make()
  embedding_ND = jax.random.normal(jax.random.key(1), (4, 8))
  model.log_scale[...] = jnp.log(jnp.array([500.0, 50.0]))
  loss, _ = model.pair_loss(embedding_ND, embedding_ND[::-1])
  expected, _ = losses.matryoshka_contrastive(
    embedding_ND,
    embedding_ND[::-1],
    nesting_dims=(2, 8),
    temperature=(0.01, 0.02),
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'match'),
  [
    ({'text_projection': None}, 'of width 8 and texts of 12: must be equal'),
    ({'image_projection': text.Projection(5)}, 'of width 5 and texts of 8'),
    ({'kind': 'triplet'}, "kind 'triplet'"),
    ({'frozen': ('images',)}, "frozen 'images'"),
    ({'dims': (2, 9)}, '9 is beyond the embedding width 8'),
    (
      {'text_projection': text.Projection(8, activation='tanh')},
      "activation 'tanh'",
    ),
  ],
)
def test_refuses(options, match):
  with pytest.raises(ValueError, match=match):
    make(**options)


def test_texts_that_share_rows_and_padding():
  model = text.create(
    text.Settings(TEXT, pooling='last', normalise=False), rngs=nnx.Rngs(0)
  )
  # Every text one after the other in a row, and one row of padding.
  row_RT = np.zeros((2, 10), int)
  owner_RT = np.zeros((2, 10), np.int32)
  ids = np.asarray(TOKENS)[np.asarray(MASK)]
  row_RT[0, :9] = ids
  owner_RT[0, :9] = [1, 1, 1, 1, 2, 2, 3, 3, 3]

  @jax.jit
  def run(token_NT, mask_NT, row_RT, owner_RT):
    longer = jnp.pad(token_NT, ((0, 0), (0, 2)), constant_values=13)
    longer_mask = jnp.pad(mask_NT, ((0, 0), (0, 2)))
    return (
      model(token_NT, mask_NT),
      model(longer, longer_mask),
      model.packed(row_RT, owner_RT, 3),
    )

  plain, padded, shared = run(TOKENS, MASK, row_RT, owner_RT)
  np.testing.assert_allclose(padded, plain, atol=1e-5)
  np.testing.assert_allclose(shared, plain, atol=1e-5)


def test_padding_that_is_read():
  variant = dataclasses.replace(TEXT, causal=False, read_padding=1)
  model = text.create(text.Settings(variant, pooling='final'), rngs=nnx.Rngs(0))
  full = jnp.where(MASK, TOKENS, 1)
  full = jnp.pad(full, ((0, 0), (0, 2)), constant_values=1)
  found, expected = jax.jit(
    lambda token, mask, full: (
      model(token, mask),
      model(full, jnp.ones_like(full, bool)),
    )
  )(TOKENS, MASK, full)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  with pytest.raises(ValueError, match='cannot share rows'):
    model.packed(TOKENS, MASK.astype(jnp.int32), 3)
  with pytest.raises(ValueError, match='texts of 7 tokens'):
    model(jnp.ones((1, 7), int), jnp.ones((1, 7), bool))
