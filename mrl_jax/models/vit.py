"""Vision transformers (arXiv 2010.11929), pre-norm, with a class token."""

import dataclasses
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import attention
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
      (`mean_then_norm`, timm's `fc_norm`).
  """

  width: int
  depth: int = 12
  num_heads: int = 12
  patch: int = 16
  pooling: Literal['token', 'mean', 'mean_then_norm'] = 'token'

  def __post_init__(self):
    if self.pooling not in (right := ('token', 'mean', 'mean_then_norm')):
      raise ValueError(
        f'pooling {self.pooling!r}: must be {" or ".join(right)}'
      )
    if self.num_heads < 1 or self.width % self.num_heads:
      raise ValueError(
        f'num_heads {self.num_heads}: must divide the width {self.width}'
      )

  @property
  def num_features(self) -> int:
    return self.width

  @property
  def pool_first(self) -> bool:
    """Whether the last norm follows the mean, and is called `fc_norm`."""
    return self.pooling == 'mean_then_norm'


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
}


class Block(nnx.Module):
  """A pre-norm block: attention, then a two-layer perceptron."""

  def __init__(
    self,
    variant: Variant,
    *,
    index: int,
    drop_path: float,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    width = variant.width
    self.num_heads = variant.num_heads
    self.index = index
    self.drop_path = drop_path
    self.dtype = dtype
    linear = lambda a, b: nnx.Linear(
      a, b, kernel_init=initializers.normal_002, dtype=dtype, rngs=rngs
    )
    self.norm1 = layer_norm(width, dtype, rngs)
    self.qkv = linear(width, 3 * width)
    self.proj = linear(width, width)
    self.norm2 = layer_norm(width, dtype, rngs)
    self.fc1 = linear(width, 4 * width)
    self.fc2 = linear(4 * width, width)

  def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Tokens [N, T, D] to tokens of the same shape."""
    keys = [None] * 2
    if key is not None:
      keys = jax.random.split(jax.random.fold_in(key, self.index))
    x += encoder.drop_path(self._attend(self.norm1(x)), self.drop_path, keys[0])
    hidden = nnx.gelu(self.fc1(self.norm2(x)), approximate=False)
    return x + encoder.drop_path(self.fc2(hidden), self.drop_path, keys[1])

  def _attend(self, x: jax.Array) -> jax.Array:
    N, T, D = x.shape
    shape = (N, T, 3, self.num_heads, D // self.num_heads)
    query, key, value = jnp.moveaxis(self.qkv(x).reshape(shape), 2, 0)
    mixed = jax.nn.dot_product_attention(
      query, key, value, implementation=attention.implementation(self.dtype)
    )
    return self.proj(mixed.reshape(N, T, D))


def layer_norm(width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """LayerNorm with torch's variance, from the differences to the mean."""
  return nnx.LayerNorm(width, use_fast_variance=False, dtype=dtype, rngs=rngs)


class ViT(encoder.Encoder):
  """A vision transformer for images of one size.

  As in DeiT and timm the classifier reads the class token (or the mean of the
  patches, see `Variant.pooling`) without a further layer, and all position
  embeddings are learned. The stages are `embed`, `block1`, `block2`, …, with
  tokens [N, 1 + patches, D]: the class token, then the patches row by row.
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
      dtype=dtype,
      kernel_init=lambda key, shape, dtype: initializers.linear_uniform(
        key, shape, 3 * patch**2
      ).astype(dtype),
      rngs=rngs,
    )
    num_tokens = 1 + (image_size // patch) ** 2
    init = initializers.normal_002
    self.class_token = nnx.Param(init(rngs.params(), (1, 1, width)))
    self.position_embedding = nnx.Param(
      init(rngs.params(), (1, num_tokens, width))
    )
    rates = encoder.drop_rates(drop_path, variant.depth)
    self.blocks = nnx.List(
      Block(variant, index=i, drop_path=rate, dtype=dtype, rngs=rngs)
      for i, rate in enumerate(rates)
    )
    name = 'fc_norm' if variant.pool_first else 'norm'
    setattr(self, name, layer_norm(width, jnp.float32, rngs))

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
    patches_NTD = self.patch_embed(image_NHWC).reshape(N, -1, D)
    token = jnp.broadcast_to(
      self.class_token[...].astype(self.dtype), (N, 1, D)
    )
    x = jnp.concatenate([token, patches_NTD], axis=1)
    return x + self.position_embedding[...].astype(self.dtype)

  def _pool(self, x: jax.Array) -> jax.Array:
    if self.variant.pooling == 'token':
      return self.norm(x[:, 0])
    if self.variant.pool_first:
      return self.fc_norm(x[:, 1:].mean(1, dtype=jnp.float32))
    return self.norm(x[:, 1:]).mean(1)
