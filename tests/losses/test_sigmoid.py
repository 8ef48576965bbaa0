"""The sigmoid loss against float64, and over eight devices."""

import functools

import chex
import jax
from jax import numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import contrastive

# Width 1 has cosines of 1 and -1, whose gradient is the rounding of 0.
DIMS = (2, 4, 20)
TEMPERATURE = np.float32([0.5, 0.2, 0.1])
BIAS = np.float32([-1.0, -4.0, -10.0])
loss_fn = functools.partial(losses.matryoshka_sigmoid, nesting_dims=DIMS)


def arrays(count=130, more=7, width=24):
  """Queries, their keys and further ones, and a mask with two thirds True."""
  keys = jax.random.split(jax.random.key(0), 3)
  query_ND = jax.random.normal(keys[0], (count, width))
  key_MD = jax.random.normal(keys[1], (count + more, width))
  key_MD = key_MD.at[:count].add(query_ND)
  mask_NM = jax.random.bernoulli(keys[2], 2 / 3, (count, count + more))
  return query_ND, key_MD, jnp.array(TEMPERATURE), jnp.array(BIAS), mask_NM


def plain(query_ND, key_MD, temperature_G, bias_G, mask_NM, normalize=True):
  """Each prefix on its own, all logits at once."""
  N, loss_G = len(query_ND), []
  is_own_NM = np.eye(N, len(key_MD), dtype=bool)
  for m, temperature, bias in zip(DIMS, temperature_G, bias_G, strict=True):
    query, key = query_ND[:, :m], key_MD[:, :m]
    if normalize:
      query, key = (
        x / jnp.sqrt((x**2).sum(-1, keepdims=True)) for x in (query, key)
      )
    logit_NM = query @ key.T / temperature + bias
    likely_NM = jax.nn.log_sigmoid(jnp.where(is_own_NM, logit_NM, -logit_NM))
    loss_G.append(-jnp.where(is_own_NM | mask_NM, likely_NM, 0).sum() / N)
  return jnp.stack(loss_G)


def value_and_gradients(function, *args):
  (_, loss_G), grads = jax.value_and_grad(
    function, argnums=(0, 1, 2, 3), has_aux=True
  )(*args)
  return loss_G, *grads


def test_by_hand():
  query_ND = jnp.array([[1.0, 0.0], [0.0, 2.0]])
  key_ND = jnp.array([[3.0, 4.0], [0.0, 1.0]])
  _, loss_G = losses.matryoshka_sigmoid(
    query_ND, key_ND, nesting_dims=(2,), temperature=0.5, bias=-1.0
  )
  # Cosines by row: 0.6, 0; 0.8, 1. Twice that less 1; negatives are negated.
  logits = np.array([0.2, 1.0, -0.6, 1.0])
  expected = np.log1p(np.exp(-logits)).sum() / 2
  np.testing.assert_allclose(loss_G, [expected], rtol=1e-6)


# Blocks of 16 keys, the last of 9.
@pytest.mark.parametrize('normalize', [True, False])
def test_equals_float64(normalize, monkeypatch):
  monkeypatch.setattr(contrastive, 'BLOCK_BYTES', 1)
  *args, mask_NM = arrays()
  if not normalize:
    args[2] = 20 * args[2]
  weights_G = jnp.array([2.0, 1.0, 0.5])

  def ours(*args):
    names = zip(('temperature', 'bias'), args[2:], strict=True)
    return loss_fn(
      *args[:2],
      **dict(names),
      mask_NM=mask_NM,
      normalize=normalize,
      weights_G=weights_G,
    )

  def exact_loss(*args):
    loss_G = plain(*args, mask_NM, normalize)
    return weights_G.astype(loss_G.dtype) @ loss_G, loss_G

  with jax.enable_x64(True):
    exact = value_and_gradients(
      exact_loss, *(jnp.asarray(np.asarray(x, np.float64)) for x in args)
    )
  actual = jax.jit(functools.partial(value_and_gradients, ours))(*args)
  np.testing.assert_allclose(actual[0], exact[0], rtol=1e-5)
  for x, right in zip(actual, exact, strict=True):
    right = np.asarray(right)
    np.testing.assert_allclose(x, right, atol=1e-5 * np.abs(right).max())
  # What lies beyond the last width is not read.
  assert not actual[1][:, 20:].any()


def test_eight_devices_equal_one(monkeypatch):
  monkeypatch.setattr(contrastive, 'BLOCK_BYTES', 1)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  *args, mask_NM = arrays(48, 16)
  # Keys lie device by device: six of the pairs and two more on each.
  own, more = np.arange(48).reshape(8, 6), np.arange(48, 64).reshape(8, 2)
  order_M = np.concatenate([own, more], 1).ravel()

  def ours(query_ND, key_MD, temperature, bias, mask_NM, axis_name=None):
    return loss_fn(
      query_ND,
      key_MD,
      temperature=temperature,
      bias=bias,
      mask_NM=mask_NM,
      axis_name=axis_name,
    )

  loss_G, by_query, by_key, *rest = jax.jit(
    functools.partial(value_and_gradients, ours)
  )(*args, mask_NM)
  expected = loss_G, by_query, by_key[order_M], *rest
  function = jax.shard_map(
    functools.partial(
      value_and_gradients, functools.partial(ours, axis_name='data')
    ),
    mesh=mesh,
    in_specs=(P('data'), P('data'), P(), P(), P('data')),
    out_specs=(P(), P('data'), P('data'), P(), P()),
  )
  found = jax.jit(function)(
    args[0], args[1][order_M], *args[2:], mask_NM[:, order_M]
  )
  for x, right in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, right, rtol=1e-5, atol=1e-5)


def test_memory_is_an_eighth_of_the_logits():
  dims = nesting.doubling(12, 768)
  x = jax.ShapeDtypeStruct((4096, 768), jnp.float32)
  g = jax.ShapeDtypeStruct((len(dims),), jnp.float32)
  gradient = jax.grad(
    lambda query, key, temperature, bias: losses.matryoshka_sigmoid(
      query, key, nesting_dims=dims, temperature=temperature, bias=bias
    )[0],
    argnums=(0, 1, 2, 3),
  )
  compiled = jax.jit(gradient).lower(x, x, g, g).compile()
  materialised = 4 * len(dims) * 4096**2
  assert compiled.memory_analysis().temp_size_in_bytes <= materialised / 8


def test_bfloat16():
  query_ND, key_ND, temperature, bias, _ = arrays(16, 0)
  query_ND, key_ND = (x.astype(jnp.bfloat16) for x in (query_ND, key_ND))
  _, loss_G = loss_fn(query_ND, key_ND, temperature=temperature, bias=bias)
  expected_G = plain(
    *(x.astype(jnp.float32) for x in (query_ND, key_ND)),
    temperature,
    bias,
    np.ones((16, 16), bool),
  )
  np.testing.assert_allclose(loss_G, expected_G, rtol=1e-5)


def test_one_number_is_that_of_every_width():
  query_ND, key_ND, *_ = arrays(16, 0)
  for loss, options in (
    (losses.matryoshka_sigmoid, {'bias': (-3, [-3.0] * 3)}),
    (losses.matryoshka_contrastive, {}),
  ):
    options['temperature'] = 0.2, (0.2, 0.2, 0.2)
    found = [
      loss(
        query_ND,
        key_ND,
        nesting_dims=DIMS,
        **{name: both[i] for name, both in options.items()},
      )
      for i in range(2)
    ]
    chex.assert_trees_all_equal(*found)


def test_a_prefix_of_zeros_has_a_gradient():
  query_ND, key_ND, *_ = arrays(4, 0)
  query_ND = query_ND.at[0, :4].set(0)
  loss, grad_ND = jax.value_and_grad(
    lambda x: loss_fn(x, key_ND, temperature=0.2, bias=-3.0)[0]
  )(query_ND)
  assert jnp.isfinite(loss) and jnp.isfinite(grad_ND).all()


@pytest.mark.parametrize(
  'change, match',
  [
    ({'nesting_dims': (4, 25)}, '25 is beyond the embedding width 24'),
    ({'weights_G': (1, 2)}, '2 weights for 3'),
    ({'temperature': (0.1, 0.0, 1.0)}, r'temperature\[1\] 0.0: must be pos'),
    ({'temperature': (0.1, 0.2)}, r'temperature of shape \(2,\).* 3 widths'),
    ({'temperature': -1}, 'temperature -1'),
    ({'bias': float('nan')}, 'bias nan'),
    ({'bias': np.ones(4)}, r'bias of shape \(4,\)'),
    ({'mask_NM': np.ones((16, 15), bool)}, r'mask of shape \(16, 15\)'),
  ],
)
def test_refuses(change, match):
  query_ND, key_ND, *_ = arrays(16, 0)
  options = {'nesting_dims': DIMS, 'temperature': 0.1, 'bias': -1.0, **change}
  with pytest.raises(ValueError, match=match):
    losses.matryoshka_sigmoid(query_ND, key_ND, **options)


def test_refuses_an_empty_batch():
  with pytest.raises(ValueError, match='at least 1'):
    loss_fn(jnp.ones((0, 24)), jnp.ones((0, 24)), temperature=1.0, bias=0.0)
