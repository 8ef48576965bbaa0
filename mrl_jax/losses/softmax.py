"""The steps of a softmax cross-entropy, over all classes or some at a time."""

from typing import NamedTuple

import jax
from jax import numpy as jnp

from mrl_jax.losses.product import Spec


def softmax(
  spec: Spec, logits_NC: jax.Array, label_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The loss [N], and the softmax's numerator [N, C] and denominator [N].

  These are kept apart, so that the backward pass can divide by one and multiply
  by the cotangent at once.
  """
  largest_N1 = logits_NC.max(-1, keepdims=True)
  weights_NC = jnp.exp(logits_NC - largest_N1)
  total_N = weights_NC.sum(-1)
  label_logit_N = jnp.take_along_axis(logits_NC, label_N[:, None], -1)[:, 0]
  loss_N = jnp.log(total_N) + largest_N1[:, 0]
  loss_N -= target_logit(spec, label_logit_N, logits_NC.mean(-1))
  return loss_N, weights_NC, total_N


def target_logit(
  spec: Spec, label_logit: jax.Array, mean_logit: jax.Array
) -> jax.Array:
  """The expected logit under the smoothed target."""
  smoothing = spec.label_smoothing
  if not smoothing:
    return label_logit
  return (1 - smoothing) * label_logit + smoothing * mean_logit


def by_logits(
  spec: Spec,
  softmax_NC: jax.Array,
  cotangent_N: jax.Array,
  label_N: jax.Array,
  num_classes: int,
) -> jax.Array:
  """Gradient by the logits of some of the `num_classes` classes, [N, C].

  `softmax_NC` is already multiplied by the cotangent. Labels count from the
  first of its classes, and may lie outside of them.
  """
  is_label_NC = label_N[:, None] == jnp.arange(softmax_NC.shape[1])[None, :]
  smoothing = spec.label_smoothing
  target_NC = jnp.where(is_label_NC, 1 - smoothing, 0.0)
  if smoothing:
    target_NC += smoothing / num_classes
  return softmax_NC - cotangent_N[:, None] * target_NC


class Running(NamedTuple):
  """Running log-sum-exp over the blocks read so far; every field is [G, N].

  Attributes:
    largest: the largest logit.
    total: sum of exp(logit - largest).
    label_logit: logit of the label, 0 before it is read.
    logit_sum: sum of the logits.
  """

  largest: jax.Array
  total: jax.Array
  label_logit: jax.Array
  logit_sum: jax.Array

  @classmethod
  def start(cls, zeros_GN: jax.Array) -> 'Running':
    return cls(zeros_GN - jnp.inf, zeros_GN, zeros_GN, zeros_GN)

  def update(self, logits_, label_N, start, size: int) -> 'Running':
    """Adds the logits [N, size] of classes from `start` on, one for each g."""
    place_N = label_N - start
    is_here_N = (place_N >= 0) & (place_N < size)
    place_N1 = jnp.clip(place_N, 0, size - 1)[:, None]
    columns = []
    for g, logits_NC in enumerate(logits_):
      largest_N = jnp.maximum(self.largest[g], logits_NC.max(-1))
      total_N = self.total[g] * jnp.exp(self.largest[g] - largest_N)
      total_N += jnp.exp(logits_NC - largest_N[:, None]).sum(-1)
      here_N = jnp.take_along_axis(logits_NC, place_N1, -1)[:, 0]
      label_logit_N = jnp.where(is_here_N, here_N, self.label_logit[g])
      logit_sum_N = self.logit_sum[g] + logits_NC.sum(-1)
      columns.append((largest_N, total_N, label_logit_N, logit_sum_N))
    return Running(*map(jnp.stack, zip(*columns, strict=True)))

  def normalizer(self) -> jax.Array:
    """The log-sum-exp."""
    return self.largest + jnp.log(self.total)
