"""BatchNorm with torch's semantics and float32 statistics."""

from flax import nnx
import jax
from jax import numpy as jnp


class BatchNorm(nnx.BatchNorm):
  """`nnx.BatchNorm` as torch defines it, over all but the last axis.

  It differs from its parent in three ways: the momentum is torch's 0.1 (0.9
  here); the running variance is the unbiased one; and the statistics stay
  float32 when the activations are bfloat16, in evaluation too. Under a
  global-view jit the statistics are those of the global batch.
  """

  def __init__(self, num_features: int, *, rngs: nnx.Rngs):
    super().__init__(num_features, momentum=0.9, epsilon=1e-5, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises `x` [..., C]; updates the running statistics in training."""
    if self.use_running_average:
      mean_C, variance_C = self.mean[...], self.var[...]
    else:
      axes = tuple(range(x.ndim - 1))
      x32 = x.astype(jnp.float32)
      mean_C = x32.mean(axes)
      # Both moments in one pass over the activations; clipped, because the
      # difference can round below zero.
      variance_C = jnp.maximum(0, jnp.square(x32).mean(axes) - mean_C**2)
      count = x.size // x.shape[-1]
      self._track(mean_C, variance_C * (count / max(count - 1, 1)))
    multiplier_C = jax.lax.rsqrt(variance_C + self.epsilon) * self.scale[...]
    offset_C = self.bias[...] - mean_C * multiplier_C
    shape = (1,) * (x.ndim - 1) + (-1,)
    y = x * multiplier_C.reshape(shape) + offset_C.reshape(shape)
    return y.astype(x.dtype)

  def _track(self, mean_C: jax.Array, variance_C: jax.Array) -> None:
    for running, new in ((self.mean, mean_C), (self.var, variance_C)):
      running[...] = jax.lax.stop_gradient(
        self.momentum * running[...] + (1 - self.momentum) * new
      )
