import itertools

import chex
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax.analysis import cascade
from mrl_jax.models import heads

DIMS = [(8, 16, 32), (1, 2, 3, 29), (7,), (3, 32)]


def embeddings(width=32, count=5):
  return jax.random.normal(jax.random.key(1), (count, width))


def separate_logits(params, embedding_ND, dims, kind):
  """The reference's way: one slice and one linear layer after another."""
  logits = []
  ends = itertools.accumulate(dims)
  for g, (m, end) in enumerate(zip(dims, ends, strict=True)):
    if kind == 'mrl':
      kernel, bias = params['kernel'][end - m : end], params['bias'][g]
    else:
      kernel, bias = params['kernel'][:m], params['bias']
    logits.append(embedding_ND[:, :m] @ kernel + bias[None, :])
  return jnp.stack(logits)


@pytest.mark.parametrize('kind', ['mrl', 'mrl_e'])
@pytest.mark.parametrize('dims', DIMS)
def test_packed_equals_separate_heads(dims, kind):
  head = heads.MatryoshkaHead(dims, 10, kind=kind, rngs=nnx.Rngs(0))
  graphdef, state = nnx.split(head)
  params = nnx.to_pure_dict(state)
  embedding_ND = embeddings()
  target = jax.random.normal(jax.random.key(2), (len(dims), 5, 10))

  def packed(params, embedding_ND):
    logits = nnx.merge(graphdef, params)(embedding_ND)
    return (logits * target).sum(), logits

  def separate(params, embedding_ND):
    logits = separate_logits(params, embedding_ND, dims, kind)
    return (logits * target).sum(), logits

  grad = lambda f: jax.value_and_grad(f, argnums=(0, 1), has_aux=True)
  results = [grad(f)(params, embedding_ND) for f in (packed, separate)]
  chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['mrl', 'mrl_e'])
def test_one_width_alone(kind):
  head = heads.MatryoshkaHead((8, 16, 32), 10, kind=kind, rngs=nnx.Rngs(0))
  logits_GNC = head(embeddings())
  for g, m in enumerate(head.nesting_dims):
    kernel_mC, bias_C = head.weights(g)
    alone = embeddings()[:, :m] @ kernel_mC + bias_C[None, :]
    chex.assert_trees_all_close(alone, logits_GNC[g], rtol=1e-5, atol=1e-6)


def test_a_cascade_over_a_head():
  head = heads.MatryoshkaHead((8, 16, 32), 3, rngs=nnx.Rngs(0))
  x, rule = 2 * embeddings(count=40), cascade.Cascade((8, 16, 32), (0.6, 0.8))

  def logits_of(g, rows):
    kernel_mC, bias_C = head.weights(g)
    return x[rows, : rule.dims[g]] @ kernel_mC + bias_C[None, :]

  classes, dims = cascade.walk(rule, logits_of, len(x))
  expected = cascade.predict(rule, head(x))
  np.testing.assert_array_equal((classes, dims), expected)
  assert len(set(dims)) > 1


def test_fixed_head_reads_only_its_width():
  head = heads.MatryoshkaHead((16,), 10, kind='fixed', rngs=nnx.Rngs(0))
  embedding_ND = embeddings()
  chex.assert_shape(head.kernel[...], (16, 10))
  expected = embedding_ND[:, :16] @ head.kernel[...] + head.bias[...][None, :]
  np.testing.assert_allclose(head(embedding_ND)[0], expected, rtol=1e-5)
  chex.assert_trees_all_equal(
    head(embedding_ND), head(embedding_ND.at[:, 16:].set(jnp.nan))
  )


@pytest.mark.parametrize(
  'kind, kernel, bias', [('mrl', (56, 10), (3, 10)), ('mrl_e', (32, 10), (10,))]
)
def test_shapes_and_torchs_initialisation(kind, kernel, bias):
  head = heads.MatryoshkaHead((8, 16, 32), 10, kind=kind, rngs=nnx.Rngs(0))
  chex.assert_shape(head.kernel[...], kernel)
  chex.assert_shape(head.bias[...], bias)
  widths = (8, 16, 32) if kind == 'mrl' else (32,)
  for m, end in zip(widths, itertools.accumulate(widths), strict=True):
    rows = np.abs(head.kernel[...][end - m : end])
    assert 0.85 < rows.max() * np.sqrt(m) <= 1
    # A uniform distribution's mean absolute value is half its bound.
    np.testing.assert_allclose(rows.mean() * np.sqrt(m), 0.5, atol=0.08)


def test_logits_between_the_nesting_dims():
  head = heads.MatryoshkaHead((8, 32), 10, kind='mrl_e', rngs=nnx.Rngs(0))
  embedding_ND = embeddings()
  expected = separate_logits(
    {'kernel': head.kernel[...], 'bias': head.bias[...]},
    embedding_ND,
    (5, 8, 20),
    'mrl_e',
  )
  chex.assert_trees_all_close(
    head.at(embedding_ND, (5, 8, 20)), expected, rtol=1e-5, atol=1e-5
  )
  mrl = heads.MatryoshkaHead((8, 32), 10, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='mrl'):
    mrl.at(embedding_ND, (5,))


def test_bfloat16_inputs_accumulate_in_float32():
  make = lambda dtype: heads.MatryoshkaHead(
    (8, 32), 10, dtype=dtype, rngs=nnx.Rngs(0)
  )
  logits = make(jnp.bfloat16)(embeddings())
  assert logits.dtype == jnp.float32
  chex.assert_trees_all_close(
    logits, make(jnp.float32)(embeddings()), atol=0.05
  )


def test_loss_is_that_of_the_logits():
  head = heads.MatryoshkaHead((8, 32), 10, rngs=nnx.Rngs(0))
  loss, loss_G = head.loss(
    embeddings(), jnp.arange(5), weights_G=(2, 1), label_smoothing=0.1
  )
  chex.assert_shape(loss_G, (2,))
  np.testing.assert_allclose(loss, 2 * loss_G[0] + loss_G[1], rtol=1e-6)


@pytest.mark.parametrize(
  'dims, kwargs, match',
  [
    ((8, 4), {}, '4 after 8'),
    ((), {}, 'empty'),
    ((8, 16), {'kind': 'fixed'}, 'one width'),
    ((8, 16), {'kind': 'mrl-e'}, 'mrl-e'),
    ((8, 16), {'num_classes': 0}, 'num_classes 0'),
  ],
)
def test_refuses(dims, kwargs, match):
  with pytest.raises(ValueError, match=match):
    heads.MatryoshkaHead(
      dims, **{'num_classes': 10, **kwargs}, rngs=nnx.Rngs(0)
    )


def test_refuses_a_narrow_embedding():
  head = heads.MatryoshkaHead((8, 64), 10, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r'\(5, 32\).*64'):
    head(embeddings())


@pytest.mark.parametrize(
  'kwargs',
  [{'dtype': 'bogus'}, {'dtype': int}, {'loss_kernel': 'cuda'}],
)
def test_settings_are_refused_at_construction(kwargs):
  (name,) = kwargs
  with pytest.raises(ValueError, match=name):
    heads.MatryoshkaHead((2, 4), 3, rngs=nnx.Rngs(0), **kwargs)


@pytest.mark.parametrize('kept_bytes', [2**28, 0])
def test_label_minus_one_is_ignored(kept_bytes, monkeypatch):
  head = heads.MatryoshkaHead((2, 4), 3, rngs=nnx.Rngs(0))
  spec = heads.fused.Spec
  monkeypatch.setattr(
    heads.fused,
    'Spec',
    lambda *args, **kwargs: spec(*args, kept_bytes=kept_bytes, **kwargs),
  )
  x_ND = jax.random.normal(jax.random.key(0), (5, 4))
  label_N = np.array([0, 2, -1, 1, -1], np.int8)
  kept = label_N >= 0
  loss, loss_G = head.loss(x_ND, label_N)
  expected, expected_G = head.loss(x_ND[kept], label_N[kept])
  np.testing.assert_allclose(loss_G, expected_G, rtol=1e-6)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  gradient_ND = jax.grad(lambda x: head.loss(x, jnp.asarray(label_N))[0])(x_ND)
  assert not gradient_ND[~kept].any() and gradient_ND[kept].any()
  loss_GN, rank_GN = head.statistics(x_ND, label_N)
  assert not loss_GN[:, ~kept].any() and (rank_GN[:, ~kept] == 5).all()
  assert (rank_GN[:, kept] < 3).all()
