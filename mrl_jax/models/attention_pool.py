"""Pooling by a learned query that attends to all tokens (arXiv 2106.04560)."""

from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import encoder
from mrl_jax.models import initializers


class AttentionPool(nnx.Module):
  """Tokens [N, T, D] to float32 embeddings [N, D], SigLIP's `MAP` head.

  One learned query mixes the tokens; a perceptron with a norm and a shortcut
  follows. `variant` is that of the blocks before it, a `vit.Variant`.
  """

  def __init__(self, variant: Any, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    width = variant.width
    hidden = variant.hidden or 4 * width
    self.num_heads = variant.num_heads
    self.activation = variant.activation
    self.dtype = dtype
    init = initializers.normal_002
    self.query = nnx.Param(init(rngs.params(), (1, 1, width)))
    # Of the query, the keys and the values, as PyTorch has them.
    self.qkv_kernel = nnx.Param(init(rngs.params(), (width, 3 * width)))
    self.qkv_bias = nnx.Param(jnp.zeros(3 * width))
    linear = lambda a, b: nnx.Linear(
      a, b, kernel_init=init, dtype=dtype, rngs=rngs
    )
    self.proj = linear(width, width)
    self.norm = encoder.layer_norm(width, dtype, rngs, variant.epsilon)
    self.fc1 = linear(width, hidden)
    self.fc2 = linear(hidden, width)

  def __call__(self, x: jax.Array) -> jax.Array:
    N, _, D = x.shape
    kernel, bias = (
      array[...].astype(self.dtype)
      for array in (self.qkv_kernel, self.qkv_bias)
    )
    split = lambda array: array.reshape(
      N, -1, self.num_heads, D // self.num_heads
    )
    query = self.query[...].astype(self.dtype) @ kernel[:, :D]
    query = jnp.broadcast_to(query + bias[None, None, :D], (N, 1, D))
    key, value = jnp.split(
      x.astype(self.dtype) @ kernel[:, D:] + bias[None, None, D:], 2, axis=-1
    )
    mixed = jax.nn.dot_product_attention(split(query), split(key), split(value))
    x = self.proj(mixed.reshape(N, D))
    hidden = encoder.ACTIVATIONS[self.activation](self.fc1(self.norm(x)))
    return (x + self.fc2(hidden)).astype(jnp.float32)
