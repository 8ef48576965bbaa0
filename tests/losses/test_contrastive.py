"""The contrastive loss against float64, and over eight devices."""

import functools

import chex
import jax
from jax import numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import contrastive

DIMS = (1, 4, 20)
loss_fn = functools.partial(losses.matryoshka_contrastive, nesting_dims=DIMS)


def pairs(count=16, width=24):
  query_key, key_key = jax.random.split(jax.random.key(0))
  query_ND = jax.random.normal(query_key, (count, width))
  return query_ND, query_ND + jax.random.normal(key_key, (count, width))


def plain(query_ND, key_ND, temperature, normalize=True, dims=DIMS):
  """Each prefix on its own, all similarities at once; numpy or jax."""
  np_ = jnp if isinstance(query_ND, jax.Array) else np
  loss_G = []
  for m in dims:
    query, key = query_ND[:, :m], key_ND[:, :m]
    if normalize:
      query = query / np_.sqrt((query**2).sum(-1, keepdims=True))
      key = key / np_.sqrt((key**2).sum(-1, keepdims=True))
    similarity_NN = query @ key.T / temperature
    normalizer = lambda x: np_.log(np_.exp(x).sum(-1))
    both = normalizer(similarity_NN) + normalizer(similarity_NN.T)
    loss_G.append((both / 2 - np_.diagonal(similarity_NN)).mean())
  return np_.stack(loss_G)


def test_by_hand():
  query_ND = jnp.array([[1.0, 0.0], [0.0, 2.0]])
  key_ND = jnp.array([[3.0, 4.0], [0.0, 1.0]])
  _, loss_G = losses.matryoshka_contrastive(
    query_ND, key_ND, nesting_dims=(2,), temperature=0.5
  )
  # Cosines by row: 0.6, 0; 0.8, 1. Twice that, by queries and by keys.
  terms = [(1.2, 0.0), (2.0, 1.6), (1.2, 1.6), (2.0, 0.0)]
  expected = np.mean([np.log(1 + np.exp(b - a)) for a, b in terms])
  np.testing.assert_allclose(loss_G, [expected], rtol=1e-6)


# Blocks of 16 keys, the last of 12.
@pytest.mark.parametrize('count', [1, 16, 300])
@pytest.mark.parametrize('normalize', [True, False])
def test_equals_float64(count, normalize, monkeypatch):
  monkeypatch.setattr(contrastive, 'BLOCK_BYTES', 1)
  query_ND, key_ND = pairs(count)
  temperature = 0.2 if normalize else 2.0
  loss, loss_G = loss_fn(
    query_ND,
    key_ND,
    temperature=temperature,
    normalize=normalize,
    weights_G=(2, 1, 0.5),
  )
  expected_G = plain(
    *(np.asarray(x, np.float64) for x in (query_ND, key_ND)),
    temperature,
    normalize,
  )
  np.testing.assert_allclose(loss_G, expected_G, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    loss, np.dot((2, 1, 0.5), expected_G), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('normalize', [True, False])
def test_gradients(normalize, monkeypatch):
  monkeypatch.setattr(contrastive, 'BLOCK_BYTES', 1)
  query_ND, key_ND = pairs(130)
  weights_G = jnp.array([2.0, 1.0, 0.5])

  def fused_loss(query_ND, key_ND, temperature):
    return loss_fn(
      query_ND,
      key_ND,
      temperature=temperature,
      normalize=normalize,
      weights_G=weights_G,
    )[0]

  def plain_loss(*args):
    return weights_G @ plain(*args, normalize)

  args = query_ND, key_ND, jnp.float32(0.7)
  with jax.enable_x64(True):
    exact = jax.jit(jax.grad(plain_loss, argnums=(0, 1, 2)))(
      *(jnp.asarray(np.asarray(x, np.float64)) for x in args)
    )
  actual = jax.jit(jax.grad(fused_loss, argnums=(0, 1, 2)))(*args)
  for x, right in zip(actual, exact, strict=True):
    scale = np.abs(right).max()
    np.testing.assert_allclose(x, np.asarray(right), atol=1e-4 * scale)
  # What lies beyond the last width is not read.
  assert not actual[0][:, 20:].any()


def test_numerical_gradients():
  query_ND, key_ND = pairs(5, 20)
  chex.assert_numerical_grads(
    jax.jit(lambda *args: loss_fn(*args[:2], temperature=args[2])[0]),
    (query_ND, key_ND, jnp.float32(1.0)),
    order=1,
    modes=['rev'],
  )


def test_bfloat16():
  query_ND, key_ND = (x.astype(jnp.bfloat16) for x in pairs())
  _, loss_G = loss_fn(query_ND, key_ND, temperature=0.2)
  expected_G = plain(
    *(np.asarray(x, np.float64) for x in (query_ND, key_ND)), 0.2
  )
  np.testing.assert_allclose(loss_G, expected_G, rtol=1e-5)


def test_a_prefix_of_zeros_has_a_gradient():
  query_ND, key_ND = pairs(4)
  query_ND = query_ND.at[0, :4].set(0)
  loss, grad_ND = jax.jit(
    jax.value_and_grad(lambda x: loss_fn(x, key_ND, temperature=0.2)[0])
  )(query_ND)
  assert jnp.isfinite(loss) and jnp.isfinite(grad_ND).all()


MESH = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))


def value_and_gradients(function, query_ND, key_ND, temperature):
  (_, loss_G), grads = jax.value_and_grad(
    function, argnums=(0, 1, 2), has_aux=True
  )(query_ND, key_ND, temperature)
  return loss_G, *grads


@pytest.mark.parametrize('way', ['jit', 'shard_map'])
def test_eight_devices_equal_one(way, monkeypatch):
  if way == 'shard_map':
    monkeypatch.setattr(contrastive, 'BLOCK_BYTES', 1)
  args = *pairs(136), jnp.float32(0.2)

  def loss(query_ND, key_ND, temperature, axis_name=None):
    return loss_fn(
      query_ND, key_ND, temperature=temperature, axis_name=axis_name
    )

  function = functools.partial(value_and_gradients, loss)
  expected = jax.jit(function)(*args)
  if way == 'shard_map':
    data = P('data')
    function = jax.shard_map(
      functools.partial(
        value_and_gradients, functools.partial(loss, axis_name='data')
      ),
      mesh=MESH,
      in_specs=(data, data, P()),
      out_specs=(P(), data, data, P()),
    )
  layout = P('data'), P('data'), P()
  args = [
    jax.device_put(x, NamedSharding(MESH, spec))
    for x, spec in zip(args, layout, strict=True)
  ]
  chex.assert_trees_all_close(
    jax.jit(function)(*args), expected, rtol=1e-3, atol=1e-5
  )


def test_memory_is_an_eighth_of_the_similarities():
  dims = nesting.doubling(12, 768)
  x = jax.ShapeDtypeStruct((4096, 768), jnp.float32)
  gradient = jax.grad(
    lambda *args: losses.matryoshka_contrastive(
      *args, nesting_dims=dims, temperature=0.2
    )[0],
    argnums=(0, 1),
  )
  compiled = jax.jit(gradient).lower(x, x).compile()
  materialised = 4 * len(dims) * 4096**2
  assert compiled.memory_analysis().temp_size_in_bytes <= materialised / 8


@pytest.mark.parametrize(
  'change, match',
  [
    ({'nesting_dims': (4, 25)}, '25 is beyond the embedding width 24'),
    ({'weights_G': (1, 2)}, '2 weights for 3'),
    ({'weights_G': (1, -2, 1)}, r'-2\.0'),
    ({'temperature': 0.0}, 'temperature 0.0: must be positive'),
    ({'temperature': -1.0}, 'temperature -1.0'),
    ({'temperature': float('nan')}, 'temperature nan'),
  ],
)
def test_refuses(change, match):
  with pytest.raises(ValueError, match=match):
    losses.matryoshka_contrastive(
      *pairs(), **{'nesting_dims': DIMS, 'temperature': 0.1, **change}
    )


def keys(count=16, negatives=7):
  """Queries, their keys and further ones, and a mask with two thirds True."""
  query_ND, key_ND = pairs(count)
  more_ND = jax.random.normal(jax.random.key(2), (negatives, key_ND.shape[1]))
  mask_NM = jax.random.bernoulli(
    jax.random.key(3), 2 / 3, (count, count + negatives)
  )
  # A key that counts for no query, and a query without negatives.
  mask_NM = mask_NM.at[:, -1].set(False).at[0].set(False)
  return query_ND, jnp.concatenate([key_ND, more_ND]), mask_NM


def plain_keys(query_ND, key_MD, mask_NM, temperature, symmetric):
  """Each prefix on its own, with M keys and a mask; float64."""
  N, loss_G = len(query_ND), []
  counts_NM = np.asarray(mask_NM) | np.eye(N, len(key_MD), dtype=bool)
  for m in DIMS:
    query, key = (
      x[:, :m] / jnp.sqrt((x[:, :m] ** 2).sum(-1, keepdims=True))
      for x in (query_ND, key_MD)
    )
    similarity_NM = query @ key.T / temperature
    shown_NM = jnp.where(counts_NM, similarity_NM, -jnp.inf)
    normalizer_N = jax.nn.logsumexp(shown_NM, axis=1)
    if symmetric:
      normalizer_N += jax.nn.logsumexp(shown_NM[:, :N], axis=0)
      normalizer_N /= 2
    loss_G.append((normalizer_N - jnp.diagonal(similarity_NM)).mean())
  return jnp.stack(loss_G)


# Blocks of 16 keys, the last of 7.
@pytest.mark.parametrize('symmetric', [True, False])
def test_more_keys_and_a_mask_equal_float64(symmetric, monkeypatch):
  monkeypatch.setattr(contrastive, 'BLOCK_BYTES', 1)
  *args, mask_NM = keys()
  weights_G = jnp.array([2.0, 1.0, 0.5])

  def loss(query_ND, key_MD, temperature):
    return loss_fn(
      query_ND,
      key_MD,
      temperature=temperature,
      mask_NM=mask_NM,
      symmetric=symmetric,
      weights_G=weights_G,
    )

  def exact_loss(query_ND, key_MD, temperature):
    loss_G = plain_keys(query_ND, key_MD, mask_NM, temperature, symmetric)
    return weights_G.astype(loss_G.dtype) @ loss_G, loss_G

  args = *args, jnp.float32(0.3)
  grad = lambda f: jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True)
  with jax.enable_x64(True):
    exact = jax.jit(grad(exact_loss))(
      *(jnp.asarray(np.asarray(x, np.float64)) for x in args)
    )
  actual = jax.jit(grad(loss))(*args)
  for x, right in zip(*map(jax.tree.leaves, (actual, exact)), strict=True):
    scale = np.abs(np.asarray(right)).max()
    np.testing.assert_allclose(x, np.asarray(right), atol=1e-5 * scale)


def test_hard_negatives_of_eight_devices_are_gathered(monkeypatch):
  monkeypatch.setattr(contrastive, 'BLOCK_BYTES', 1)
  query_ND, key_MD, mask_NM = keys(16, 32)
  more_MD = key_MD[16:]

  def loss(query_ND, key_ND, more_MD, mask_NM, axis_name=None):
    return loss_fn(
      query_ND,
      jnp.concatenate([key_ND, more_MD]),
      temperature=0.2,
      mask_NM=mask_NM,
      axis_name=axis_name,
    )

  args = query_ND, key_MD[:16], more_MD
  grad = lambda f: jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True)
  (_, loss_G), *grads = jax.jit(grad(loss))(*args, mask_NM)
  # Each device has two pairs and four more keys: columns come device by device.
  columns = np.concatenate(
    [
      [*range(2 * i, 2 * i + 2), *range(16 + 4 * i, 20 + 4 * i)]
      for i in range(8)
    ]
  )
  data = P('data')

  def on_devices(*args):
    (_, loss_G), grads = grad(functools.partial(loss, axis_name='data'))(*args)
    return loss_G, grads

  sharded = jax.jit(
    jax.shard_map(
      on_devices,
      mesh=MESH,
      in_specs=(data,) * 4,
      out_specs=(P(), (data,) * 3),
    )
  )
  chex.assert_trees_all_close(
    sharded(*args, mask_NM[:, columns]), (loss_G, *grads), rtol=1e-3, atol=1e-5
  )


def test_a_batch_of_duplicates_has_no_loss():
  query_ND, key_ND = pairs(4)
  mask_NM = jnp.zeros((4, 4), bool)
  loss, grad_ND = jax.value_and_grad(
    lambda x: loss_fn(x, key_ND, temperature=0.1, mask_NM=mask_NM)[0]
  )(query_ND)
  np.testing.assert_allclose(loss, 0, atol=1e-6)
  np.testing.assert_allclose(grad_ND, 0, atol=1e-6)


def test_refuses_an_empty_batch_and_shapes_that_differ():
  query_ND, key_ND = pairs()
  with pytest.raises(ValueError, match='at least 1'):
    loss_fn(query_ND[:0], key_ND[:0], temperature=0.1)
  with pytest.raises(ValueError, match=r'\(16, 24\).*\(15, 24\)'):
    loss_fn(query_ND, key_ND[1:], temperature=0.1)
  with pytest.raises(ValueError, match=r'mask of shape \(16, 15\)'):
    loss_fn(query_ND, key_ND, temperature=0.1, mask_NM=jnp.ones((16, 15), bool))
