"""ModernBERT (arXiv 2412.13663): pre-norm, rotary positions, gated GELU.

Every few blocks attend to all tokens of a text, the others to those nearby.
"""

from collections.abc import Callable, Iterator
import dataclasses

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax.models import attention
from mrl_jax.models import dropout
from mrl_jax.models import encoder
from mrl_jax.models import initializers
from mrl_jax.models import packed


@dataclasses.dataclass(frozen=True)
class Variant:
  """The geometry of a ModernBERT.

  Attributes:
    vocabulary_size: number of token embeddings.
    width: width of the tokens' states.
    depth: number of blocks.
    num_heads: number of attention heads, which share the width evenly.
    hidden: width inside the perceptron of a block, behind its gate.
    max_tokens: largest number of tokens that it was made for.
    is_global: for each block whether it attends to all tokens; by default the
      first of every three does.
    window: the other blocks attend to tokens at most this far away.
    global_theta: base of the rotary positions' wavelengths in global blocks.
    local_theta: the same in the other blocks.
    epsilon: what layer norms add to the variance.
    norm_bias: whether layer norms have a bias.
    attention_bias: whether the linear layers around the attention have a bias.
    mlp_bias: whether the linear layers of the perceptron have a bias.
    embedding_dropout: share of the token embeddings that training zeroes.
    attention_dropout: share of the attention's weights, and of its output.
    mlp_dropout: share of the states inside the perceptron.
  """

  vocabulary_size: int = 50368
  width: int = 768
  depth: int = 22
  num_heads: int = 12
  hidden: int = 1152
  max_tokens: int = 8192
  is_global: tuple[bool, ...] = ()
  window: int = 64
  global_theta: float = 160_000.0
  local_theta: float = 10_000.0
  epsilon: float = 1e-5
  norm_bias: bool = False
  attention_bias: bool = False
  mlp_bias: bool = False
  embedding_dropout: float = 0.0
  attention_dropout: float = 0.0
  mlp_dropout: float = 0.0

  def __post_init__(self):
    if self.num_heads < 1 or self.width % (2 * self.num_heads):
      raise ValueError(
        f'num_heads {self.num_heads}: must divide the width {self.width} into '
        'even parts'
      )
    if not self.is_global:
      every = tuple(not i % 3 for i in range(self.depth))
      object.__setattr__(self, 'is_global', every)
    if len(self.is_global) != self.depth:
      raise ValueError(
        f'is_global has {len(self.is_global)} blocks: must have {self.depth}'
      )

  def create(self, **options) -> 'ModernBert':
    """The encoder with random parameters; see `ModernBert` for the options."""
    return ModernBert(self, **options)


class Block(nnx.Module):
  """A pre-norm block: attention, then a gated perceptron."""

  def __init__(
    self, variant: Variant, *, index: int, dtype: jnp.dtype, rngs: nnx.Rngs
  ):
    width = variant.width
    self.variant = variant
    self.index = index
    self.by_row = False  # See `attention.attend`.
    norm = _norms(variant, dtype, rngs)
    linear = lambda a, b, use_bias: nnx.Linear(
      a,
      b,
      use_bias=use_bias,
      kernel_init=initializers.normal_002,
      dtype=dtype,
      rngs=rngs,
    )
    if index:  # The first block reads embeddings that are normalised already.
      self.norm1 = norm()
    self.qkv = linear(width, 3 * width, variant.attention_bias)
    self.proj = linear(width, width, variant.attention_bias)
    self.norm2 = norm()
    self.fc1 = linear(width, 2 * variant.hidden, variant.mlp_bias)
    self.fc2 = linear(variant.hidden, width, variant.mlp_bias)

  def __call__(
    self, x: jax.Array, mask_NT: jax.Array, key: jax.Array | None
  ) -> jax.Array:
    """States [N, T, D] to states of the same shape."""
    keys = [None] * 3
    if key is not None:
      keys = jax.random.split(jax.random.fold_in(key, self.index), 3)
    mixed = self._attend(self.norm1(x) if self.index else x, mask_NT, keys[0])
    x += dropout.dropout(mixed, self.variant.attention_dropout, keys[1])
    value, gate = jnp.split(self.fc1(self.norm2(x)), 2, axis=-1)
    hidden = nnx.gelu(value, approximate=False) * gate
    return x + self.fc2(
      dropout.dropout(hidden, self.variant.mlp_dropout, keys[2])
    )

  def _attend(self, x, mask_NT, key) -> jax.Array:
    variant = self.variant
    is_global = variant.is_global[self.index]
    query, key_, value = attention.split_heads(self.qkv(x), variant.num_heads)
    theta = variant.global_theta if is_global else variant.local_theta
    mixed = attention.attend(
      rotated(query, mask_NT, theta),
      rotated(key_, mask_NT, theta),
      value,
      mask_NT,
      window=None if is_global else variant.window,
      dropout=variant.attention_dropout,
      rng=key,
      by_row=self.by_row,
    )
    return self.proj(mixed)


class ModernBert(encoder.TokenEncoder):
  """Token ids [N, T] to states [N, T, D] of `dtype`, the last one normalised.

  The stages are `embed`, `block1`, `block2`, …, `norm`.
  """

  last_stages = ('norm',)

  def __init__(
    self,
    variant: Variant,
    *,
    dtype: jnp.dtype = jnp.float32,
    remat: bool = False,
    rngs: nnx.Rngs,
  ):
    self.variant = variant
    self.dtype = dtype
    self.remat = remat
    self.word_embedding = nnx.Param(
      initializers.normal_002(
        rngs.params(), (variant.vocabulary_size, variant.width)
      )
    )
    norm = _norms(variant, dtype, rngs)
    self.norm1 = norm()
    self.blocks = nnx.List(
      Block(variant, index=i, dtype=dtype, rngs=rngs)
      for i in range(variant.depth)
    )
    self.norm = norm()

  def _states(self, token_NT, mask_NT, key) -> Iterator[jax.Array]:
    x = self.norm1(self.word_embedding[...][token_NT])
    if key is not None:
      drop_key = jax.random.fold_in(key, self.variant.depth)
      x = dropout.dropout(x, self.variant.embedding_dropout, drop_key)
    yield x
    for block in self.blocks:
      x = encoder.run_block(block, x, mask_NT, key, remat=self.remat)
      yield x
    yield self.norm(x)


def _norms(variant, dtype, rngs) -> Callable[[], nnx.LayerNorm]:
  """Makes the layer norms of a ModernBERT."""
  return lambda: encoder.layer_norm(
    variant.width, dtype, rngs, variant.epsilon, use_bias=variant.norm_bias
  )


def rotated(x_NTHE: jax.Array, mask_NT: jax.Array, theta: float) -> jax.Array:
  """Rotates pairs of numbers by the token's position (RoPE, arXiv 2104.09864).

  Number i of each head pairs with number i + E / 2, and turns by the position
  over theta^(2 i / E), in radians.
  """
  E = x_NTHE.shape[-1]
  frequency = 1 / theta ** (np.arange(0, E, 2, dtype=np.float32) / E)
  if packed.is_packed(mask_NT):
    position_NT = packed.positions(mask_NT, jnp.ones_like(mask_NT))
  else:
    position_NT = jnp.arange(mask_NT.shape[1])[None]
  angle = (
    position_NT[:, :, None, None] * jnp.asarray(frequency)[None, None, None]
  )
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  first, second = jnp.split(x_NTHE.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x_NTHE.dtype)
