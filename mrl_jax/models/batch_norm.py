"""BatchNorm with torch's semantics and float32 statistics."""

from collections.abc import Callable
import math

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import projection_norm


class BatchNorm(nnx.BatchNorm):
  """`nnx.BatchNorm` as torch defines it, over all but the last axis.

  It differs from its parent in four ways: the momentum is torch's 0.1 (0.9
  here); the running variance is the unbiased one; the statistics stay float32
  when the activations are bfloat16, in evaluation too; and a batch may be
  normalised in groups of examples.

  Attributes:
    group: number of consecutive examples that are normalised by their own
      statistics; 0: the whole batch, which under a global-view jit is that of
      all devices. Where a device holds whole groups, training needs no
      communication for them. The running statistics are the mean over groups.
  """

  def __init__(self, num_features: int, *, rngs: nnx.Rngs):
    super().__init__(num_features, momentum=0.9, epsilon=1e-5, rngs=rngs)
    self.group = 0

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises `x` [N, …, C]; updates the running statistics in training.

    Raises ValueError in training if N is not a multiple of `group`.
    """
    return self._normalize(x, *self._statistics(x))

  def project(self, x: jax.Array, kernel_KC: jax.Array) -> jax.Array:
    """Normalises `x @ kernel_KC`, a 1x1 convolution of `x` [N, h, w, K].

    This is for training; it equals a call with the product, but does not store
    the product.
    """
    y, mean_GC, variance_GC = projection_norm.normalized_projection(
      self._grouped(x), kernel_KC, self.scale[...], self.bias[...], self.epsilon
    )
    self._track(mean_GC, variance_GC, math.prod(x.shape[:-1]) // len(y))
    return y.reshape(*x.shape[:-1], -1)

  def pooled(
    self, x: jax.Array, max_pool: Callable[[jax.Array], jax.Array]
  ) -> jax.Array:
    """Returns `max_pool(self(x))`, but normalises only the maxima.

    A normalisation is monotonic in each channel, so that it can follow the
    pool; channels whose scale is negative are negated before it. This equals
    the plain order, and neither stores nor reads normalised values of `x`.
    """
    sign_C = jnp.where(self.scale[...] < 0, -1, 1).astype(x.dtype)
    sign = sign_C.reshape((1,) * (x.ndim - 1) + (-1,))
    x = x * sign
    statistics = self._statistics(x, sign_C.astype(jnp.float32))
    return self._normalize(max_pool(x) * sign, *statistics)

  def _grouped(self, x: jax.Array) -> jax.Array:
    """Splits `x` [N, …] into groups [G, n, …]."""
    if self.group and len(x) % self.group:
      raise ValueError(
        f'BatchNorm group {self.group}: must divide the {len(x)} examples'
      )
    return x.reshape(-1, self.group or len(x), *x.shape[1:])

  def _statistics(
    self, x: jax.Array, sign_C: jax.Array | float = 1.0
  ) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance: [G, C] of G groups, or the running [C].

    `x` [N, …, C] is multiplied by `sign_C` already, which the mean is not.
    """
    if self.use_running_average:
      return self.mean[...], self.var[...]
    x = self._grouped(x)
    axes = tuple(range(1, x.ndim - 1))
    x32 = x.astype(jnp.float32)
    mean_GC = x32.mean(axes)
    # Both moments in one pass over the activations; clipped, because the
    # difference can round below zero.
    variance_GC = jnp.maximum(0, jnp.square(x32).mean(axes) - mean_GC**2)
    mean_GC = mean_GC * jnp.reshape(sign_C, (1, -1))
    self._track(mean_GC, variance_GC, math.prod(x.shape[1:-1]))
    return mean_GC, variance_GC

  def _normalize(
    self, x: jax.Array, mean: jax.Array, variance: jax.Array
  ) -> jax.Array:
    """Applies statistics [C], or [G, C] to the groups of `x` [N, …, C]."""
    shape = (1,) * (mean.ndim - 1) + (-1,)
    scale, bias = (p[...].reshape(shape) for p in (self.scale, self.bias))
    multiplier = jax.lax.rsqrt(variance + self.epsilon) * scale
    offset = bias - mean * multiplier
    groups = len(mean) if mean.ndim > 1 else 1
    y = x.reshape(groups, -1, *x.shape[1:])
    shape = (groups,) + (1,) * (y.ndim - 2) + (-1,)
    y = y * multiplier.reshape(shape) + offset.reshape(shape)
    return y.astype(x.dtype).reshape(x.shape)

  def _track(
    self, mean_GC: jax.Array, variance_GC: jax.Array, count: int
  ) -> None:
    """Updates the running statistics; `count` values were averaged in each."""
    unbiased_GC = variance_GC * (count / max(count - 1, 1))
    for running, new_GC in ((self.mean, mean_GC), (self.var, unbiased_GC)):
      running[...] = jax.lax.stop_gradient(
        self.momentum * running[...] + (1 - self.momentum) * new_GC.mean(0)
      )


def set_group(model: nnx.Module, group: int) -> None:
  """Sets the `group` of all BatchNorm layers in a model.

  `group` is a number of examples that divides the batch; 0: the whole batch.
  """
  for _, module in nnx.iter_modules(model):
    if isinstance(module, BatchNorm):
      module.group = group
