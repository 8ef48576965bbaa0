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

# Size of the similarities of all granularities in a block; the backward pass
# needs about six times as much. On a CPU 1 and 4 MiB are slower, 16 as fast.
BLOCK_BYTES = 2**23


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def symmetric_cross_entropy(
  spec: Spec,
  axis_name: str | None,
  query_ND: jax.Array,
  key_ND: jax.Array,
  query_scale_GN: jax.Array,
  key_scale_GN: jax.Array,
) -> jax.Array:
  """InfoNCE of every pair at every granularity, [G, N] nats.

  The similarity of query i and key j at granularity g is the product of their
  prefixes times `query_scale_GN[g, i] * key_scale_GN[g, j]`. A pair's loss is
  the mean of two cross-entropies: of its key among all keys, and of its query
  among all queries. With `axis_name` these are the keys and queries of all
  devices along that mapped axis; the arguments and the result are one device's.

  Args:
    spec: has `shared`, and the width D as `dims[-1]`.
    axis_name: name of a mapped axis, or None.
    query_ND: embeddings; row i pairs with row i of `key_ND`.
    key_ND: embeddings.
    query_scale_GN: float32 factors of the queries.
    key_scale_GN: float32 factors of the keys.
  """
  inputs = query_ND, key_ND, query_scale_GN, key_scale_GN
  return _forward(spec, axis_name, *inputs)[0]


def _forward(spec, axis_name, query_ND, key_ND, query_scale_GN, key_scale_GN):
  all_key_MD = _gather(key_ND, axis_name, 0)
  all_scale_GM = _gather(key_scale_GN, axis_name, 1)
  own_N = _own(len(query_ND), axis_name)

  def body(carry, start, size):
    running, by_key_GM = carry
    products = _products(spec, query_ND, all_key_MD, start, size)
    scale_GB = lax.dynamic_slice_in_dim(all_scale_GM, start, size, axis=1)
    similarity_G = [
      product_NB * query_scale_N[:, None] * scale_B[None, :]
      for product_NB, query_scale_N, scale_B in zip(
        products, query_scale_GN, scale_GB, strict=True
      )
    ]
    running = running.update(similarity_G, own_N, start, size)
    # Log-sum-exp over the queries: complete, as only this block has its keys.
    by_key_GB = jnp.stack([_normalizer(x, axis_name) for x in similarity_G])
    by_key_GM = lax.dynamic_update_slice_in_dim(
      by_key_GM, by_key_GB, start, axis=1
    )
    return running, by_key_GM

  # Zeros that vary over devices: in `shard_map` a loop's carry keeps its type.
  start = softmax.Running.start(query_scale_GN * 0), all_scale_GM * 0
  running, by_key_GM = blocks.over_blocks(
    body, start, spec, (len(query_ND), len(all_key_MD))
  )
  by_query_GN = running.normalizer()
  by_own_key_GN = jnp.take(by_key_GM, own_N, axis=1)
  loss_GN = (by_query_GN + by_own_key_GN) / 2 - running.label_logit
  inputs = query_ND, key_ND, query_scale_GN, key_scale_GN
  return loss_GN, (inputs, by_query_GN, by_key_GM)


def _backward(spec, axis_name, residuals, cotangent_GN):
  inputs, by_query_GN, by_key_GM = residuals
  query_ND, key_ND, query_scale_GN, key_scale_GN = inputs
  all_key_MD = _gather(key_ND, axis_name, 0)
  all_scale_GM = _gather(key_scale_GN, axis_name, 1)
  all_cotangent_GM = _gather(cotangent_GN, axis_name, 1)
  own_N = _own(len(query_ND), axis_name)

  def body(carry, start, size):
    query_grad_ND, key_grad_MD, query_scale_grad_GN, key_scale_grad_GM = carry
    part = functools.partial(
      lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=1
    )
    scale_GB, by_key_GB = part(all_scale_GM), part(by_key_GM)
    key_cotangent_GB = part(all_cotangent_GM)
    products = _products(spec, query_ND, all_key_MD, start, size)
    is_pair_NB = own_N[:, None] == (start + jnp.arange(size))[None, :]
    scale_grads = {}

    def by_product(g):
      """Gradient by the products at granularity g; stores that by scales."""
      product_NB = products[g]
      scale_N1, scale_1B = query_scale_GN[g][:, None], scale_GB[g][None, :]
      similarity_NB = product_NB * scale_N1 * scale_1B
      among_keys_NB = jnp.exp(similarity_NB - by_query_GN[g][:, None])
      among_queries_NB = jnp.exp(similarity_NB - by_key_GB[g][None, :])
      grad_NB = cotangent_GN[g][:, None] * (
        0.5 * among_keys_NB - is_pair_NB
      ) + key_cotangent_GB[g][None, :] * (0.5 * among_queries_NB)
      by_scales_NB = grad_NB * product_NB
      scale_grads[g] = (
        jnp.dot(by_scales_NB, scale_GB[g], precision='highest'),
        jnp.dot(query_scale_GN[g], by_scales_NB, precision='highest'),
      )
      return grad_NB * scale_N1 * scale_1B

    query_grad, key_grad_DB, _ = product.gradients(
      spec, query_ND, _keys(all_key_MD, start, size), by_product
    )
    by_query_scale, by_key_scale = zip(
      *(scale_grads[g] for g in range(len(spec.dims))), strict=True
    )
    put = lax.dynamic_update_slice_in_dim
    return (
      query_grad_ND + query_grad,
      put(key_grad_MD, key_grad_DB.T, start, axis=0),
      query_scale_grad_GN + jnp.stack(by_query_scale),
      put(key_scale_grad_GM, jnp.stack(by_key_scale), start, axis=1),
    )

  zeros = [
    x.astype(jnp.float32) * 0
    for x in (query_ND, all_key_MD, query_scale_GN, all_scale_GM)
  ]
  query_grad, key_grad, query_scale_grad, key_scale_grad = blocks.over_blocks(
    body, tuple(zeros), spec, (len(query_ND), len(all_key_MD))
  )
  return (
    query_grad.astype(query_ND.dtype),
    _scatter(key_grad, axis_name, 0).astype(key_ND.dtype),
    query_scale_grad,
    _scatter(key_scale_grad, axis_name, 1),
  )


symmetric_cross_entropy.defvjp(_forward, _backward)


def _keys(all_key_MD, start, size) -> jax.Array:
  return lax.dynamic_slice_in_dim(all_key_MD, start, size, axis=0).T


def _products(spec, query_ND, all_key_MD, start, size) -> list[jax.Array]:
  """Unscaled similarities with a block of keys, [N, size] for each g."""
  key_DB = _keys(all_key_MD, start, size)
  return product.logits(spec, query_ND, key_DB, jnp.zeros(size))


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


def _own(count: int, axis_name) -> jax.Array:
  """Positions of this device's pairs among those of all devices, [N]."""
  first = 0 if axis_name is None else count * lax.axis_index(axis_name)
  return first + jnp.arange(count)
