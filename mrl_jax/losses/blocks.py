"""The loss of nested heads over blocks of classes, in O(block) memory."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from mrl_jax.losses import product
from mrl_jax.losses import softmax
from mrl_jax.losses.product import Spec


def forward(
  spec: Spec,
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  bias: jax.Array,
  label_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The loss and the log-sum-exp of the logits, both [G, N]."""
  if spec.kernel != 'xla':
    # Pallas takes a quarter of a second to import.
    from mrl_jax.losses import tiles

    normalizer_GN, label_logit_GN, mean_logit_GN = tiles.statistics(
      spec, embedding_ND, kernel_RC, bias, label_N
    )
    target_GN = softmax.target_logit(spec, label_logit_GN, mean_logit_GN)
    return normalizer_GN - target_GN, normalizer_GN
  shape = len(label_N), kernel_RC.shape[1]

  def body(running, start, size):
    block = _block(kernel_RC, start, size), _block(bias, start, size)
    logits_ = product.logits(spec, embedding_ND, *block)
    return running.update(logits_, label_N, start, size)

  running = over_blocks(
    body,
    softmax.Running.start(jnp.zeros((len(spec.dims), shape[0]))),
    spec,
    shape,
  )
  normalizer_GN = running.normalizer()
  target_GN = softmax.target_logit(
    spec, running.label_logit, running.logit_sum / shape[1]
  )
  return normalizer_GN - target_GN, normalizer_GN


def backward(
  spec: Spec,
  inputs: Sequence[jax.Array],
  normalizer_GN: jax.Array,
  cotangent_GN: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Float32 gradients by embedding, kernel and bias.

  `inputs` are the arrays of `forward`, whose logits are computed again.
  """
  embedding_ND, kernel_RC, bias, label_N = inputs
  num_classes = kernel_RC.shape[1]

  def body(carry, start, size):
    by_embedding_ND, by_kernel_RC, by_bias = carry
    block = _block(kernel_RC, start, size), _block(bias, start, size)
    place_N = label_N - start
    if spec.kernel == 'xla':
      logits_ = product.logits(spec, embedding_ND, *block)

      def by_logits(g):
        softmax_NC = jnp.exp(logits_[g] - normalizer_GN[g][:, None])
        cotangent_N1 = cotangent_GN[g][:, None]
        return softmax.by_logits(
          spec,
          softmax_NC * cotangent_N1,
          cotangent_GN[g],
          place_N,
          num_classes,
        )

    else:
      from mrl_jax.losses import tiles

      by_logits_GNC = tiles.gradient(
        spec,
        (embedding_ND, *block, place_N),
        normalizer_GN,
        cotangent_GN,
        num_classes=num_classes,
      )
      by_logits = lambda g: by_logits_GNC[g].astype(jnp.float32)
    gradients = product.gradients(spec, embedding_ND, block[0], by_logits)
    put = lax.dynamic_update_slice_in_dim
    return (
      by_embedding_ND + gradients[0],
      put(by_kernel_RC, gradients[1], start, axis=1),
      put(by_bias, gradients[2], start, axis=bias.ndim - 1),
    )

  zeros = tuple(jnp.zeros(x.shape) for x in (embedding_ND, kernel_RC, bias))
  return over_blocks(body, zeros, spec, (len(label_N), num_classes))


def statistics(
  spec: Spec,
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  bias: jax.Array,
  label_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Loss and rank of each label, both [G, N], from a running top 5."""
  num_examples, num_classes = len(label_N), kernel_RC.shape[1]
  k = min(5, num_classes)
  G = len(spec.dims)

  def body(carry, start, size):
    running, best, ids = carry
    block = _block(kernel_RC, start, size), _block(bias, start, size)
    logits_ = product.logits(spec, embedding_ND, *block)
    # Ties go to the lower class: blocks come in the order of classes, and top_k
    # keeps the first of equals.
    here, here_ids = lax.top_k(jnp.stack(logits_), min(k, size))
    best, places = lax.top_k(jnp.concatenate([best, here], axis=-1), k)
    ids = jnp.concatenate([ids, start + here_ids], axis=-1)
    ids = jnp.take_along_axis(ids, places, axis=-1)
    return running.update(logits_, label_N, start, size), best, ids

  running, _, ids_GNK = over_blocks(
    body,
    (
      softmax.Running.start(jnp.zeros((G, num_examples))),
      jnp.full((G, num_examples, k), -jnp.inf),
      jnp.full((G, num_examples, k), -1, jnp.int32),
    ),
    spec,
    (num_examples, num_classes),
  )
  loss_GN = running.normalizer() - running.label_logit
  is_label_GNK = ids_GNK == label_N[None, :, None]
  rank_GN = jnp.where(is_label_GNK.any(-1), is_label_GNK.argmax(-1), 5)
  # A label ranks last where logits are NaN.
  return loss_GN, jnp.where(jnp.isnan(loss_GN), 5, rank_GN)


def over_blocks(
  body: Callable[[Any, Any, int], Any], carry: Any, spec: Spec, shape: Sequence
) -> Any:
  """Folds `body(carry, start, size)` over blocks of the classes.

  All blocks have one size, but the last may be smaller. `shape` is the number
  of examples and of classes.
  """
  num_examples, num_classes = shape
  size = spec.block_bytes // (4 * len(spec.dims) * num_examples)
  # Multiples of the columns of a matrix unit, or of a vector register.
  tile = 128 if size >= 128 else 16
  size = min(num_classes, max(size // tile, 1) * tile)
  # A smaller last block would be compiled on its own: avoid it where possible.
  sizes = range(size, size // 2, -tile)
  size = next((x for x in sizes if num_classes % x == 0), size)
  full, rest = divmod(num_classes, size)
  carry = lax.fori_loop(
    0, full, lambda i, carry: body(carry, i * size, size), carry
  )
  return body(carry, full * size, rest) if rest else carry


def _block(x: jax.Array, start, size: int) -> jax.Array:
  """Classes [start, start + size) of an array whose last axis is C."""
  return lax.dynamic_slice_in_dim(x, start, size, axis=x.ndim - 1)
