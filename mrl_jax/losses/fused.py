"""The loss of nested heads from the embedding, without all logits in memory.

Where all logits together are small, they are kept from the forward to the
backward pass, as automatic differentiation does. Where they are large, both
passes go over blocks of classes: the forward pass keeps a running log-sum-exp
for each granularity, the backward pass computes a block's logits again (four
products instead of three) and writes the block's gradient in place.
"""

import dataclasses
import functools

import jax
from jax import numpy as jnp

from mrl_jax.losses import blocks
from mrl_jax.losses import metrics
from mrl_jax.losses import product
from mrl_jax.losses import softmax
from mrl_jax.losses.product import Spec


def logits(
  spec: Spec, embedding_ND: jax.Array, kernel_RC: jax.Array, bias: jax.Array
) -> jax.Array:
  """Float32 logits [G, N, C] of every prefix, see `product.logits`."""
  return jnp.stack(product.logits(spec, embedding_ND, kernel_RC, bias))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def cross_entropy(
  spec: Spec,
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  bias: jax.Array,
  label_N: jax.Array,
) -> jax.Array:
  """Softmax cross-entropy of every example at every granularity, [G, N] nats.

  Equal to `losses.cross_entropy(logits(...), label_N)`, in less memory. It has
  reverse-mode gradients by the embedding, the kernel and the bias.
  """
  return _forward(spec, embedding_ND, kernel_RC, bias, label_N)[0]


def statistics(
  spec: Spec,
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  bias: jax.Array,
  label_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Loss (nats, not smoothed) and rank of each label, both [G, N], in one pass.

  Ranks are those of `metrics.label_rank` up to 4; 5 stands for all higher.
  """
  spec = dataclasses.replace(spec, label_smoothing=0.0)
  inputs = embedding_ND, kernel_RC, bias, label_N
  if not _is_kept(spec, kernel_RC, label_N):
    return blocks.statistics(spec, *inputs)
  logits_GNC = logits(spec, embedding_ND, kernel_RC, bias)
  loss_GN = [softmax.softmax(spec, x, label_N)[0] for x in logits_GNC]
  rank_GN = metrics.label_rank(logits_GNC, label_N)
  return jnp.stack(loss_GN), jnp.minimum(rank_GN, 5)


def _forward(spec, embedding_ND, kernel_RC, bias, label_N):
  inputs = embedding_ND, kernel_RC, bias, label_N
  if not _is_kept(spec, kernel_RC, label_N):
    loss_GN, normalizer_GN = blocks.forward(spec, *inputs)
    return loss_GN, (inputs, normalizer_GN)
  loss_GN, softmax_G = [], []
  for logits_NC in product.logits(spec, embedding_ND, kernel_RC, bias):
    loss_N, *parts = softmax.softmax(spec, logits_NC, label_N)
    loss_GN.append(loss_N)
    softmax_G.append(parts)
  return jnp.stack(loss_GN), (inputs, softmax_G)


def _backward(spec, residuals, cotangent_GN):
  inputs, kept = residuals
  embedding_ND, kernel_RC, bias, label_N = inputs
  if _is_kept(spec, kernel_RC, label_N):

    def by_logits(g):
      weights_NC, total_N = kept[g]
      cotangent_N = cotangent_GN[g]
      return softmax.by_logits(
        spec,
        weights_NC * (cotangent_N / total_N)[:, None],
        cotangent_N,
        label_N,
        kernel_RC.shape[1],
      )

    gradients = product.gradients(spec, embedding_ND, kernel_RC, by_logits)
  else:
    gradients = blocks.backward(spec, inputs, kept, cotangent_GN)
  by_embedding_ND, by_kernel_RC, by_bias = gradients
  return (
    by_embedding_ND.astype(embedding_ND.dtype),
    by_kernel_RC.astype(kernel_RC.dtype),
    by_bias.astype(bias.dtype),
    None,
  )


cross_entropy.defvjp(_forward, _backward)


def _is_kept(spec: Spec, kernel_RC: jax.Array, label_N: jax.Array) -> bool:
  size = 4 * len(spec.dims) * len(label_N) * kernel_RC.shape[1]
  return spec.kernel == 'xla' and size <= spec.kept_bytes
