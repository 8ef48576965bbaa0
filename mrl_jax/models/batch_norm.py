"""BatchNorm with torch's semantics and float32 statistics."""

import math

from flax import nnx
import jax
from jax import numpy as jnp


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
    if self.use_running_average:
      return self._normalize(x, self.mean[...], self.var[...])
    return self._train(self._grouped(x)).reshape(x.shape)

  def _grouped(self, x: jax.Array) -> jax.Array:
    """Splits `x` [N, …] into groups [G, n, …]."""
    if self.group and len(x) % self.group:
      raise ValueError(
        f'BatchNorm group {self.group}: must divide the {len(x)} examples'
      )
    return x.reshape(-1, self.group or len(x), *x.shape[1:])

  def _train(self, x: jax.Array) -> jax.Array:
    """Normalises each of the groups `x` [G, n, …, C] by its statistics."""
    axes = tuple(range(1, x.ndim - 1))
    x32 = x.astype(jnp.float32)
    mean_GC = x32.mean(axes)
    # Both moments in one pass over the activations; clipped, because the
    # difference can round below zero.
    variance_GC = jnp.maximum(0, jnp.square(x32).mean(axes) - mean_GC**2)
    self._track(mean_GC, variance_GC, math.prod(x.shape[1:-1]))
    return self._normalize(x, mean_GC, variance_GC)

  def _normalize(
    self, x: jax.Array, mean: jax.Array, variance: jax.Array
  ) -> jax.Array:
    """Applies statistics [C], or [G, C] to `x` [G, n, …, C]."""
    shape = (1,) * (mean.ndim - 1) + (-1,)
    scale, bias = (p[...].reshape(shape) for p in (self.scale, self.bias))
    multiplier = jax.lax.rsqrt(variance + self.epsilon) * scale
    offset = bias - mean * multiplier
    shape = mean.shape[:-1] + (1,) * (x.ndim - mean.ndim) + (-1,)
    y = x * multiplier.reshape(shape) + offset.reshape(shape)
    return y.astype(x.dtype)

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
