"""Pre-norm vision transformers (arXiv 2010.11929), as of CLIP and SigLIP."""

import dataclasses
from typing import Any, Literal

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import attention
from mrl_jax.models import attention_pool
from mrl_jax.models import encoder
from mrl_jax.models import initializers


@dataclasses.dataclass(frozen=True)
class Variant:
  """The geometry of a vision transformer.

  Attributes:
    width: width of the tokens and of the embedding.
    depth: number of blocks.
    num_heads: number of attention heads, which share the width evenly.
    patch: side in pixels of the squares that become tokens.
    pooling: the embedding is the class token (`token`), or the mean of the
      patches' tokens, with the last norm before the mean (`mean`) or after it
      (`mean_then_norm`, timm's `fc_norm`); `attention` stands for a learned
      query that attends to all tokens, of which none is a class token
      (`attention_pool`).
    hidden: width inside the perceptron of a block; 0: four times the width.
    activation: the function inside the perceptron, of `encoder.ACTIVATIONS`.
    epsilon: what layer norms add to the variance.
    stem_norm: whether the tokens are normalised before the first block, as in
      CLIP, whose patch embedding has no bias.
  """

  width: int
  depth: int = 12
  num_heads: int = 12
  patch: int = 16
  pooling: Literal['token', 'mean', 'mean_then_norm', 'attention'] = 'token'
  hidden: int = 0
  activation: Literal['gelu', 'gelu_new', 'quick_gelu', 'relu'] = 'gelu'
  epsilon: float = 1e-6
  stem_norm: bool = False

  def __post_init__(self):
    right = ('token', 'mean', 'mean_then_norm', 'attention')
    if self.pooling not in right:
      raise ValueError(
        f'pooling {self.pooling!r}: must be {" or ".join(right)}'
      )
    encoder.check_block(self)

  @property
  def num_features(self) -> int:
    return self.width

  @property
  def class_tokens(self) -> int:
    """Number of tokens before those of the patches."""
    return int(self.pooling != 'attention')

  @property
  def pool_first(self) -> bool:
    """Whether the last norm follows the mean, and is called `fc_norm`."""
    return self.pooling == 'mean_then_norm'


# OpenAI's (arXiv 2103.00020), and SigLIP's (arXiv 2303.15343).
_CLIP = Variant(
  768, patch=32, activation='quick_gelu', epsilon=1e-5, stem_norm=True
)
VARIANTS = {
  'vit_ti16': Variant(192, num_heads=3),
  'vit_s8': Variant(384, num_heads=6, patch=8),
  'vit_s14': Variant(384, num_heads=6, patch=14),
  'vit_s16': Variant(384, num_heads=6),
  'vit_s32': Variant(384, num_heads=6, patch=32),
  'vit_b8': Variant(768, patch=8),
  'vit_b14': Variant(768, patch=14),
  'vit_b16': Variant(768),
  'vit_b32': Variant(768, patch=32),
  'vit_l14': Variant(1024, depth=24, num_heads=16, patch=14),
  'vit_l16': Variant(1024, depth=24, num_heads=16),
  'vit_l32': Variant(1024, depth=24, num_heads=16, patch=32),
  'vit_h14': Variant(1280, depth=32, num_heads=16, patch=14),
  'clip_vit_b32': _CLIP,
  'clip_vit_b16': dataclasses.replace(_CLIP, patch=16),
  'clip_vit_l14': dataclasses.replace(
    _CLIP, width=1024, depth=24, num_heads=16, patch=14
  ),
  'siglip_b16': Variant(768, pooling='attention', activation='gelu_new'),
}


class Block(nnx.Module):
  """A pre-norm block: attention, then a two-layer perceptron.

  `variant` is a `Variant` of images, or one of texts with the same fields.
  """

  def __init__(
    self,
    variant: Any,
    *,
    index: int,
    drop_path: float,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    width, epsilon = variant.width, variant.epsilon
    hidden = variant.hidden or 4 * width
    self.num_heads = variant.num_heads
    self.activation = variant.activation
    self.index = index
    self.drop_path = drop_path
    self.dtype = dtype
    linear = lambda a, b: nnx.Linear(
      a, b, kernel_init=initializers.normal_002, dtype=dtype, rngs=rngs
    )
    self.norm1 = encoder.layer_norm(width, dtype, rngs, epsilon)
    self.qkv = linear(width, 3 * width)
    self.proj = linear(width, width)
    self.norm2 = encoder.layer_norm(width, dtype, rngs, epsilon)
    self.fc1 = linear(width, hidden)
    self.fc2 = linear(hidden, width)

  def __call__(
    self,
    x: jax.Array,
    key: jax.Array | None,
    mask_NT: jax.Array | None = None,
  ) -> jax.Array:
    """Tokens [N, T, D] to tokens of the same shape; images have no mask."""
    keys = [None] * 2
    if key is not None:
      keys = jax.random.split(jax.random.fold_in(key, self.index))
    mixed = self._attend(self.norm1(x), mask_NT)
    x += encoder.drop_path(mixed, self.drop_path, keys[0])
    hidden = encoder.ACTIVATIONS[self.activation](self.fc1(self.norm2(x)))
    return x + encoder.drop_path(self.fc2(hidden), self.drop_path, keys[1])

  def _attend(self, x, mask_NT=None) -> jax.Array:
    heads = attention.split_heads(self.qkv(x), self.num_heads)
    return self.proj(self._mix(heads, mask_NT))

  def _mix(
    self, heads: tuple[jax.Array, ...], mask_NT: jax.Array | None
  ) -> jax.Array:
    """Queries, keys and values [N, T, heads, …] to mixtures [N, T, D]."""
    del mask_NT  # Every token attends to all.
    mixed = jax.nn.dot_product_attention(
      *heads, implementation=attention.implementation(self.dtype)
    )
    return mixed.reshape(*mixed.shape[:2], -1)


class ViT(encoder.Encoder):
  """A vision transformer for images of one size.

  As in DeiT and timm the classifier reads the class token (or the mean of the
  patches, see `Variant.pooling`) without a further layer, and all position
  embeddings are learned. The stages are `embed`, `block1`, `block2`, …, with
  tokens [N, 1 + patches, D]: the class token, unless the pooling is by
  attention, then the patches row by row.
  """

  def __init__(
    self,
    variant: Variant,
    *,
    image_size: int,
    drop_path: float = 0.0,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    width, patch = variant.width, variant.patch
    self.variant = variant
    self.num_features = width
    self.image_size = image_size
    self.remat = remat
    self.dtype = dtype
    self.stage_names = (
      'embed',
      *(f'block{i}' for i in range(1, variant.depth + 1)),
    )
    self.patch_embed = nnx.Conv(
      3,
      width,
      (patch, patch),
      strides=patch,
      padding='VALID',
      use_bias=not variant.stem_norm,
      dtype=dtype,
      kernel_init=lambda key, shape, dtype: initializers.linear_uniform(
        key, shape, 3 * patch**2
      ).astype(dtype),
      rngs=rngs,
    )
    num_tokens = variant.class_tokens + (image_size // patch) ** 2
    init = initializers.normal_002
    if variant.class_tokens:
      self.class_token = nnx.Param(init(rngs.params(), (1, 1, width)))
    self.position_embedding = nnx.Param(
      init(rngs.params(), (1, num_tokens, width))
    )
    if variant.stem_norm:
      self.stem_norm = encoder.layer_norm(width, dtype, rngs, variant.epsilon)
    rates = encoder.drop_rates(drop_path, variant.depth)
    self.blocks = nnx.List(
      Block(variant, index=i, drop_path=rate, dtype=dtype, rngs=rngs)
      for i, rate in enumerate(rates)
    )
    name = 'fc_norm' if variant.pool_first else 'norm'
    norm = encoder.layer_norm(width, jnp.float32, rngs, variant.epsilon)
    setattr(self, name, norm)
    if variant.pooling == 'attention':
      self.attention_pool = attention_pool.AttentionPool(
        variant, dtype=dtype, rngs=rngs
      )

  def _run(self, name: str, x: jax.Array, key: jax.Array | None) -> jax.Array:
    if name == 'embed':
      return self._embed(x)
    block = self.blocks[self.stage_names.index(name) - 1]
    return encoder.run_block(block, x, key, remat=self.remat)

  def _embed(self, image_NHWC: jax.Array) -> jax.Array:
    if image_NHWC.shape[1:3] != (self.image_size, self.image_size):
      raise ValueError(
        f'images of shape {image_NHWC.shape}: this transformer has position '
        f'embeddings for {self.image_size} x {self.image_size} pixels'
      )
    N, D = image_NHWC.shape[0], self.num_features
    x = self.patch_embed(image_NHWC).reshape(N, -1, D)
    if self.variant.class_tokens:
      token_11D = self.class_token[...].astype(self.dtype)
      x = jnp.concatenate([jnp.broadcast_to(token_11D, (N, 1, D)), x], axis=1)
    x = x + self.position_embedding[...].astype(self.dtype)
    return self.stem_norm(x) if self.variant.stem_norm else x

  def _pool(self, x: jax.Array) -> jax.Array:
    if self.variant.pooling == 'token':
      return self.norm(x[:, 0])
    if self.variant.pooling == 'attention':
      return self.attention_pool(self.norm(x))
    if self.variant.pool_first:
      return self.fc_norm(x[:, 1:].mean(1, dtype=jnp.float32))
    return self.norm(x[:, 1:]).mean(1)
