"""Contrastive loss of nested embeddings, over blocks of keys.

The keys take the place of MRL-E's classifier: the similarities of all prefixes
are one cumulative product. One block of them at a time is in memory, and the
backward pass computes it again.
"""

import functools

import jax
from jax import lax
from jax import numpy as jnp

from mrl_jax.losses import blocks
from mrl_jax.losses import product
from mrl_jax.losses import softmax
from mrl_jax.losses.product import Spec

# Similarity of a pair that does not count. It is finite, since the difference
# of two infinite ones would be NaN.
_HIDDEN = -1e30
# Size of the similarities of all granularities in a block; the backward pass
# needs about six times as much. On a CPU 1 and 4 MiB are slower, 16 as fast.
BLOCK_BYTES = 2**23


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def cross_entropy(
  spec: Spec,
  axis_name: str | None,
  symmetric: bool,
  query_ND: jax.Array,
  key_MD: jax.Array,
  scale_GN: jax.Array,
  key_scale_GM: jax.Array,
  mask_NM: jax.Array | None,
) -> jax.Array:
  """InfoNCE of every query at every granularity, [G, N] nats.

  The similarity of query i and key j at granularity g is the product of their
  prefixes times `scale_GN[g, i] * key_scale_GM[g, j]`. The loss of query i is
  the cross-entropy of its key among all keys; with `symmetric` it is the mean
  of that and of the cross-entropy of query i among all queries, by its key.
  With `axis_name` these are the keys and queries of all devices along that
  mapped axis; the other arguments and the result are one device's.

  Args:
    spec: has `shared`, and the width D as `dims[-1]`.
    axis_name: name of a mapped axis, or None.
    symmetric: whether both directions count.
    query_ND: embeddings; query i pairs with key i.
    key_MD: embeddings of M >= N keys; those from N on are negatives only.
    scale_GN: float32 factors of the queries.
    key_scale_GM: float32 factors of the keys.
    mask_NM: False where a key is no negative of a query; own keys always count.
      None: all do. With `axis_name` its columns are the keys of all devices,
      device by device.
  """
  inputs = query_ND, key_MD, scale_GN, key_scale_GM, mask_NM
  return _forward(spec, axis_name, symmetric, *inputs)[0]


def _forward(
  spec, axis_name, symmetric, query_ND, key_MD, scale_GN, key_scale_GM, mask_NM
):
  all_key_MD = _gather(key_MD, axis_name, 0)
  all_scale_GM = _gather(key_scale_GM, axis_name, 1)
  own_N = _own(len(query_ND), len(key_MD), axis_name)

  def body(carry, start, size):
    running, by_key_GM = carry
    products = _products(spec, query_ND, all_key_MD, start, size)
    scale_GB = _columns(all_scale_GM, start, size)
    counts_NB = _counts(mask_NM, own_N, start, size)
    similarity_G = [
      _similarity(product_NB, scale_N, scale_B, counts_NB)
      for product_NB, scale_N, scale_B in zip(
        products, scale_GN, scale_GB, strict=True
      )
    ]
    running = running.update(similarity_G, own_N, start, size)
    if symmetric:
      # Log-sum-exp over the queries: complete, as only this block has its keys.
      by_key_GB = jnp.stack([_normalizer(x, axis_name) for x in similarity_G])
      by_key_GM = lax.dynamic_update_slice_in_dim(
        by_key_GM, by_key_GB, start, axis=1
      )
    return running, by_key_GM

  # Zeros that vary over devices: in `shard_map` a loop's carry keeps its type.
  start = softmax.Running.start(scale_GN * 0), all_scale_GM * 0
  running, by_key_GM = blocks.over_blocks(
    body, start, spec, (len(query_ND), len(all_key_MD))
  )
  by_query_GN = running.normalizer()
  loss_GN = by_query_GN - running.label_logit
  if symmetric:
    by_own_key_GN = jnp.take(by_key_GM, own_N, axis=1)
    loss_GN = (by_query_GN + by_own_key_GN) / 2 - running.label_logit
  inputs = query_ND, key_MD, scale_GN, key_scale_GM, mask_NM
  return loss_GN, (inputs, by_query_GN, by_key_GM)


def _backward(spec, axis_name, symmetric, residuals, cotangent_GN):
  inputs, by_query_GN, by_key_GM = residuals
  query_ND, key_MD, scale_GN, key_scale_GM, mask_NM = inputs
  all_key_MD = _gather(key_MD, axis_name, 0)
  all_scale_GM = _gather(key_scale_GM, axis_name, 1)
  # Keys from N on are no one's own.
  negatives = len(key_MD) - len(query_ND)
  all_cotangent_GM = _gather(
    jnp.pad(cotangent_GN, ((0, 0), (0, negatives))), axis_name, 1
  )
  own_N = _own(len(query_ND), len(key_MD), axis_name)
  share = 0.5 if symmetric else 1.0

  def body(carry, start, size):
    query_grad_ND, key_grad_MD, scale_grad_GN, key_scale_grad_GM = carry
    part = functools.partial(_columns, start=start, size=size)
    scale_GB, by_key_GB = part(all_scale_GM), part(by_key_GM)
    key_cotangent_GB = part(all_cotangent_GM)
    counts_NB = _counts(mask_NM, own_N, start, size)
    products = _products(spec, query_ND, all_key_MD, start, size)
    is_pair_NB = own_N[:, None] == (start + jnp.arange(size))[None, :]
    scale_grads = {}

    def by_product(g):
      """Gradient by the products at granularity g; stores that by scales."""
      similarity_NB = _similarity(
        products[g], scale_GN[g], scale_GB[g], counts_NB
      )
      among_keys_NB = jnp.exp(similarity_NB - by_query_GN[g][:, None])
      grad_NB = cotangent_GN[g][:, None] * (share * among_keys_NB - is_pair_NB)
      if symmetric:
        among_queries_NB = jnp.exp(similarity_NB - by_key_GB[g][None, :])
        grad_NB += key_cotangent_GB[g][None, :] * (0.5 * among_queries_NB)
      by_scales_NB = grad_NB * products[g]
      scale_grads[g] = (
        jnp.dot(by_scales_NB, scale_GB[g], precision='highest'),
        jnp.dot(scale_GN[g], by_scales_NB, precision='highest'),
      )
      return grad_NB * scale_GN[g][:, None] * scale_GB[g][None, :]

    query_grad, key_grad_DB, _ = product.gradients(
      spec, query_ND, _keys(all_key_MD, start, size), by_product
    )
    by_scale, by_key_scale = zip(
      *(scale_grads[g] for g in range(len(spec.dims))), strict=True
    )
    put = lax.dynamic_update_slice_in_dim
    return (
      query_grad_ND + query_grad,
      put(key_grad_MD, key_grad_DB.T, start, axis=0),
      scale_grad_GN + jnp.stack(by_scale),
      put(key_scale_grad_GM, jnp.stack(by_key_scale), start, axis=1),
    )

  zeros = [
    x.astype(jnp.float32) * 0
    for x in (query_ND, all_key_MD, scale_GN, all_scale_GM)
  ]
  query_grad, key_grad, scale_grad, key_scale_grad = blocks.over_blocks(
    body, tuple(zeros), spec, (len(query_ND), len(all_key_MD))
  )
  return (
    query_grad.astype(query_ND.dtype),
    _scatter(key_grad, axis_name, 0).astype(key_MD.dtype),
    scale_grad,
    _scatter(key_scale_grad, axis_name, 1),
    None,
  )


cross_entropy.defvjp(_forward, _backward)


def _keys(all_key_MD, start, size) -> jax.Array:
  return lax.dynamic_slice_in_dim(all_key_MD, start, size, axis=0).T


def _products(spec, query_ND, all_key_MD, start, size) -> list[jax.Array]:
  """Unscaled similarities with a block of keys, [N, size] for each g."""
  key_DB = _keys(all_key_MD, start, size)
  return product.logits(spec, query_ND, key_DB, jnp.zeros(size))


def _columns(x: jax.Array, start, size) -> jax.Array:
  return lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _counts(mask_NM, own_N, start, size) -> jax.Array | None:
  """Whether each key of a block counts for each query, [N, size]."""
  if mask_NM is None:
    return None
  is_own_NB = own_N[:, None] == (start + jnp.arange(size))[None, :]
  return is_own_NB | _columns(mask_NM, start, size)


def _similarity(product_NB, scale_N, scale_B, counts_NB) -> jax.Array:
  similarity_NB = product_NB * scale_N[:, None] * scale_B[None, :]
  if counts_NB is None:
    return similarity_NB
  return jnp.where(counts_NB, similarity_NB, _HIDDEN)


def _normalizer(similarity_NB, axis_name) -> jax.Array:
  """Log-sum-exp over the queries of all devices, [B]."""
  largest_B = similarity_NB.max(0)
  if axis_name is not None:
    largest_B = lax.pmax(largest_B, axis_name)
  total_B = jnp.exp(similarity_NB - largest_B[None, :]).sum(0)
  if axis_name is not None:
    total_B = lax.psum(total_B, axis_name)
  return largest_B + jnp.log(total_B)


def _gather(x, axis_name, axis) -> jax.Array:
  if axis_name is None:
    return x
  return lax.all_gather(x, axis_name, axis=axis, tiled=True)


def _scatter(x, axis_name, axis) -> jax.Array:
  """Sums over devices; each keeps its own part."""
  if axis_name is None:
    return x
  return lax.psum_scatter(x, axis_name, scatter_dimension=axis, tiled=True)


def _own(queries: int, keys: int, axis_name) -> jax.Array:
  """Positions of this device's own keys among those of all devices, [N]."""
  first = 0 if axis_name is None else keys * lax.axis_index(axis_name)
  return first + jnp.arange(queries)
