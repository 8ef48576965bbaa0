"""Torch's initialisers, drawn on the host.

XLA takes seconds to compile the random draws of a large encoder, shape by
shape; numpy draws the same amount in a fraction of one. The draws are callbacks
so that they also work, with the same numbers, under `jit` and `eval_shape`.
"""

from collections.abc import Callable, Sequence
import math

import jax
from jax import numpy as jnp
import numpy as np


def kaiming_normal(
  key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """`kaiming_normal_(mode='fan_out', nonlinearity='relu')` of a HWIO kernel."""
  height, width, _, out_channels = shape
  return _normal(key, shape, 2 / (height * width * out_channels), dtype)


def kaiming_normal_in(
  key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """`kaiming_normal_(nonlinearity='relu')` of a kernel [in, out]."""
  return _normal(key, shape, 2 / shape[0], dtype)


def normal_002(
  key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """Normal of deviation 0.02, for the kernels of ConvNeXt, ViT and DeiT.

  Their `trunc_normal_(std=0.02)` cuts at 100 deviations, which is nowhere.
  """
  return _normal(key, shape, 0.02**2, dtype)


def linear_uniform(
  key: jax.Array, shape: Sequence[int], fan_in: np.typing.ArrayLike
) -> jax.Array:
  """`nn.Linear`'s U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for kernel and bias.

  `fan_in` broadcasts against `shape`.
  """
  bound = 1 / np.sqrt(fan_in, dtype=np.float32)
  return _draw(
    key, shape, lambda rng: (2 * rng.random(shape, np.float32) - 1) * bound
  )


def _normal(key, shape, variance: float, dtype: jnp.dtype) -> jax.Array:
  scale = np.float32(math.sqrt(variance))
  draw = lambda rng: rng.standard_normal(shape, np.float32) * scale
  return _draw(key, shape, draw).astype(dtype)


def _draw(
  key: jax.Array,
  shape: Sequence[int],
  draw: Callable[[np.random.Generator], np.ndarray],
) -> jax.Array:
  def callback(key_data):
    return draw(np.random.default_rng(np.asarray(key_data)))

  result = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  return jax.pure_callback(callback, result, jax.random.key_data(key))
