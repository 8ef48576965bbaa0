"""BatchNorm of a 1x1 convolution whose output is never stored.

The moments of y = x W follow from those of the input x, which has fewer
channels: mean(y) = mean(x) W, and var(y) is the diagonal of W^T cov(x) W. They
are known before the product is computed, so that the normalised product and
what follows it can be written in one pass. The backward pass reads x, not y.
"""

import math

import jax
from jax import numpy as jnp


@jax.custom_vjp
def normalized_projection(
  x: jax.Array,
  w_KC: jax.Array,
  scale_C: jax.Array,
  bias_C: jax.Array,
  epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises the product `x @ w` of each group by the group's statistics.

  Args:
    x: activations [G, n, h, w, K] of G groups.
    w_KC: kernel of the 1x1 convolution; it is cast to x's dtype.
    scale_C: scale of the result.
    bias_C: bias of the result.
    epsilon: added to the variance.

  Returns:
    The result [G, n, h, w, C] in x's dtype, and the mean and the biased
    variance [G, C] of the product in float32. No gradient flows through the
    latter two: the derivative of the result has their part.
  """
  return _forward(x, w_KC, scale_C, bias_C, epsilon)[0]


def _forward(x, w_KC, scale_C, bias_C, epsilon):
  w, wide = _cast(w_KC, x)
  center_GK = x.mean((1, 2, 3), dtype=wide.dtype)
  square_GKL = _exact('gnhwk,gnhwl->gkl', x, x) / _count(x)
  covariance_GKL = square_GKL - center_GK[:, :, None] * center_GK[:, None]
  spread_GKC = _exact('gkl,lc->gkc', covariance_GKL, wide)
  mean_GC = _exact('gk,kc->gc', center_GK, wide)
  variance_GC = jnp.maximum(0, (wide[None] * spread_GKC).sum(1))
  inverse_GC = jax.lax.rsqrt(variance_GC + epsilon)
  multiplier_GC = inverse_GC * scale_C[None]
  offset_GC = bias_C[None] - mean_GC * multiplier_GC
  y = jnp.einsum('gnhwk,kc->gnhwc', x, w)
  y = y * _over_pixels(multiplier_GC) + _over_pixels(offset_GC)
  kept = (x, w_KC, scale_C, center_GK, spread_GKC, mean_GC, inverse_GC)
  return (y.astype(x.dtype), mean_GC, variance_GC), kept


def _backward(kept, cotangents):
  x, w_KC, scale_C, center_GK, spread_GKC, mean_GC, inverse_GC = kept
  g, *_ = cotangents
  w, wide = _cast(w_KC, x)
  multiplier_GC = inverse_GC * scale_C[None]
  bias_GC = g.sum((1, 2, 3), dtype=wide.dtype)
  product_GKC = _exact('gnhwk,gnhwc->gkc', x, g)
  # Over examples and pixels, the sum of g times the normalised product.
  scale_GC = inverse_GC * (
    (wide[None] * product_GKC).sum(1) - mean_GC * bias_GC
  )
  slope_GC = inverse_GC * scale_GC
  kernel_GKC = multiplier_GC[:, None] * (
    product_GKC
    - center_GK[:, :, None] * bias_GC[:, None]
    - slope_GC[:, None] * spread_GKC
  )
  # The gradient of the product is multiplier * (g - shift - slope * product);
  # times W^T, the part with the product needs only x @ (W slope W^T).
  share_GC = multiplier_GC / _count(x)
  back_GKL = -_exact('kc,gc,lc->gkl', wide, share_GC * slope_GC, wide)
  shift_GC = share_GC * (bias_GC - slope_GC * mean_GC)
  shift_GK = _exact('gc,kc->gk', shift_GC, wide)
  part = jnp.einsum('gnhwl,gkl->gnhwk', x, back_GKL.astype(x.dtype))
  part = (part - _over_pixels(shift_GK)).astype(x.dtype)
  # The barrier keeps XLA from storing this term in float32.
  part = jax.lax.optimization_barrier(part)
  scaled = (g * _over_pixels(multiplier_GC)).astype(x.dtype)
  grad = jnp.einsum('gnhwc,kc->gnhwk', scaled, w) + part
  grads = (kernel_GKC, scale_GC, bias_GC)
  return grad.astype(x.dtype), *(grad.sum(0) for grad in grads), None


normalized_projection.defvjp(_forward, _backward)


def _cast(w_KC: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The kernel in x's dtype, and these values in float32 or wider."""
  w = w_KC.astype(x.dtype)
  return w, w.astype(jnp.promote_types(x.dtype, jnp.float32))


def _count(x: jax.Array) -> int:
  return math.prod(x.shape[1:-1])


def _over_pixels(x_GC: jax.Array) -> jax.Array:
  return x_GC[:, None, None, None]


def _exact(spec: str, *arrays: jax.Array) -> jax.Array:
  """A product for statistics: float32 values are not rounded to bfloat16."""
  dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
  return jnp.einsum(
    spec, *arrays, precision='highest', preferred_element_type=dtype
  )
