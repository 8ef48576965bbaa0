"""BERT (arXiv 1810.04805) and encoders of its kind, post-norm.

These are BERT, MiniLM, RoBERTa and XLM-R, whose positions begin behind the
padding's, DistilBERT, which has no token types, and MPNet (arXiv 2004.09297),
which adds a learned bias by relative position to the attention of every block.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax.models import attention
from mrl_jax.models import dropout
from mrl_jax.models import encoder
from mrl_jax.models import initializers
from mrl_jax.models import packed

# Tokens further apart than this share MPNet's last bucket.
_FARTHEST = 128


@dataclasses.dataclass(frozen=True)
class Variant:
  """The geometry of a BERT.

  Attributes:
    vocabulary_size: number of token embeddings.
    width: width of the tokens' states.
    depth: number of blocks.
    num_heads: number of attention heads, which share the width evenly.
    hidden: width inside the two-layer perceptron of a block.
    max_tokens: number of positions that a token can have.
    num_types: number of token types, of which a single text has the first; 0
      for an encoder without them.
    position_offset: row of the position embeddings that the first token has;
      RoBERTa's is the padding token's id plus 1.
    relative_buckets: number of buckets of relative positions; 0 without.
    epsilon: what layer norms add to the variance.
    activation: the function inside the perceptron, of `encoder.ACTIVATIONS`.
    dropout: share of the states that training zeroes at random.
    attention_dropout: share of the attention weights that training zeroes.
  """

  vocabulary_size: int = 30522
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  hidden: int = 3072
  max_tokens: int = 512
  num_types: int = 2
  position_offset: int = 0
  relative_buckets: int = 0
  epsilon: float = 1e-12
  activation: Literal['gelu', 'gelu_new', 'quick_gelu', 'relu'] = 'gelu'
  dropout: float = 0.1
  attention_dropout: float = 0.1

  def __post_init__(self):
    encoder.check_block(self)

  def create(self, **options) -> 'Bert':
    """The encoder with random parameters; see `Bert` for the options."""
    return Bert(self, **options)


class Block(nnx.Module):
  """A post-norm block: attention, then a two-layer perceptron."""

  def __init__(
    self, variant: Variant, *, index: int, dtype: jnp.dtype, rngs: nnx.Rngs
  ):
    width = variant.width
    self.variant = variant
    self.index = index
    self.by_row = False  # See `attention.attend`.
    linear = lambda a, b: nnx.Linear(
      a, b, kernel_init=initializers.normal_002, dtype=dtype, rngs=rngs
    )
    self.qkv = linear(width, 3 * width)
    self.proj = linear(width, width)
    self.norm1 = encoder.layer_norm(width, dtype, rngs, variant.epsilon)
    self.fc1 = linear(width, variant.hidden)
    self.fc2 = linear(variant.hidden, width)
    self.norm2 = encoder.layer_norm(width, dtype, rngs, variant.epsilon)

  def __call__(
    self,
    x: jax.Array,
    mask_NT: jax.Array,
    bias: jax.Array | None,
    key: jax.Array | None,
  ) -> jax.Array:
    """States [N, T, D] to states of the same shape."""
    keys = [None] * 3
    if key is not None:
      keys = jax.random.split(jax.random.fold_in(key, self.index), 3)
    rate = self.variant.dropout
    mixed = self._attend(x, mask_NT, bias, keys[0])
    x = self.norm1(x + dropout.dropout(mixed, rate, keys[1]))
    hidden = encoder.ACTIVATIONS[self.variant.activation](self.fc1(x))
    return self.norm2(x + dropout.dropout(self.fc2(hidden), rate, keys[2]))

  def _attend(self, x, mask_NT, bias, key) -> jax.Array:
    mixed = attention.attend(
      *attention.split_heads(self.qkv(x), self.variant.num_heads),
      mask_NT,
      bias_1HTT=bias,
      dropout=self.variant.attention_dropout,
      rng=key,
      by_row=self.by_row,
    )
    return self.proj(mixed)


class Bert(encoder.TokenEncoder):
  """Token ids [N, T] to states [N, T, D], float32 or of `dtype`.

  The stages are `embed`, `block1`, `block2`, …, with states [N, T, D].
  """

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
    table = lambda rows, width: nnx.Param(
      initializers.normal_002(rngs.params(), (rows, width))
    )
    width = variant.width
    self.word_embedding = table(variant.vocabulary_size, width)
    self.position_embedding = table(
      variant.max_tokens + variant.position_offset, width
    )
    if variant.num_types:
      self.type_embedding = table(variant.num_types, width)
    if variant.relative_buckets:
      self.relative_bias = table(variant.relative_buckets, variant.num_heads)
    self.norm = encoder.layer_norm(width, dtype, rngs, variant.epsilon)
    self.blocks = nnx.List(
      Block(variant, index=i, dtype=dtype, rngs=rngs)
      for i in range(variant.depth)
    )

  def _states(self, token_NT, mask_NT, key) -> Iterator[jax.Array]:
    x = self._embed(token_NT, mask_NT)
    if key is not None:
      drop_key = jax.random.fold_in(key, self.variant.depth)
      x = dropout.dropout(x, self.variant.dropout, drop_key)
    yield x
    bias = self._bias(token_NT.shape[1])
    for block in self.blocks:
      x = encoder.run_block(block, x, mask_NT, bias, key, remat=self.remat)
      yield x

  def _embed(self, token_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    T, most = token_NT.shape[1], self.variant.max_tokens
    is_packed = packed.is_packed(mask_NT)
    if most < T and not is_packed:
      raise ValueError(f'texts of {T} tokens: must have at most {most}')
    x = self.word_embedding[...][token_NT]
    offset = self.variant.position_offset
    if offset:
      # As in RoBERTa, padding tokens within a text have no position.
      counts_NT = token_NT != offset - 1
      position_NT = packed.positions(mask_NT, counts_NT)
      position_NT = jnp.where(counts_NT, position_NT + offset, offset - 1)
      x = x + self.position_embedding[...][position_NT]
    elif is_packed:
      ones_NT = jnp.ones_like(token_NT)
      x = x + self.position_embedding[...][packed.positions(mask_NT, ones_NT)]
    else:
      x = x + self.position_embedding[...][None, :T]
    if self.variant.num_types:
      x = x + self.type_embedding[...][None, :1]
    return self.norm(x)

  def _bias(self, length: int) -> jax.Array | None:
    """MPNet's bias of each head by relative position, [1, H, T, T]."""
    if not self.variant.relative_buckets:
      return None
    buckets = _buckets(self.variant.max_tokens, self.variant.relative_buckets)
    position_T = jnp.arange(length)
    distance_TT = position_T[:, None] - position_T[None, :]
    # Packed rows may be longer than any text.
    last = self.variant.max_tokens - 1
    bucket_TT = buckets[jnp.clip(distance_TT, -last, last) + last]
    bias_TTH = self.relative_bias[...][bucket_TT]
    return jnp.moveaxis(bias_TTH, -1, 0)[None].astype(self.dtype)


def _buckets(max_tokens: int, count: int) -> jax.Array:
  """The bucket of each distance of a query behind a key, as MPNet has them.

  The distances are those from `1 - max_tokens` on. Half of the buckets are for
  keys behind the query. In each half the first ones hold one distance each, and
  the others grow by a constant factor (T5, arXiv 1910.10683).
  """
  distance = np.arange(1 - max_tokens, max_tokens)
  half = count // 2
  exact = half // 2
  magnitude = np.abs(distance)
  # In float32 and cut off as there, where it decides a bucket.
  growing = np.log(np.maximum(magnitude, 1).astype(np.float32) / exact)
  growing = growing / math.log(_FARTHEST / exact) * (half - exact)
  growing = np.minimum(exact + growing.astype(np.int64), half - 1)
  bucket = np.where(magnitude < exact, magnitude, growing)
  return jnp.asarray(bucket + np.where(distance < 0, half, 0), jnp.int32)
