"""The text transformers of CLIP and SigLIP: pre-norm, with learned positions.

CLIP's (arXiv 2103.00020) attends to earlier tokens only, and its last token
stands for the text. SigLIP's (arXiv 2303.15343) reads texts of one length, and
attends to their padding like to any other token.
"""

from collections.abc import Iterator
import dataclasses
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import attention
from mrl_jax.models import encoder
from mrl_jax.models import initializers
from mrl_jax.models import packed
from mrl_jax.models import vit


@dataclasses.dataclass(frozen=True)
class Variant:
  """The geometry of a text transformer.

  Attributes:
    vocabulary_size: number of token embeddings.
    width: width of the tokens' states.
    depth: number of blocks.
    num_heads: number of attention heads, which share the width evenly.
    hidden: width inside the perceptron of a block.
    max_tokens: number of positions that a token can have.
    causal: whether tokens attend to earlier ones only.
    read_padding: id of the token that fills every text up to `max_tokens`, and
      is read like any other; -1: padding is not read.
    epsilon: what layer norms add to the variance.
    activation: the function inside the perceptron, of `encoder.ACTIVATIONS`.
  """

  vocabulary_size: int = 49408
  width: int = 512
  depth: int = 12
  num_heads: int = 8
  hidden: int = 2048
  max_tokens: int = 77
  causal: bool = True
  read_padding: int = -1
  epsilon: float = 1e-5
  activation: Literal['gelu', 'gelu_new', 'quick_gelu', 'relu'] = 'quick_gelu'

  def __post_init__(self):
    encoder.check_block(self)

  def create(self, **options) -> 'ClipText':
    """The encoder with random parameters; see `ClipText` for the options."""
    return ClipText(self, **options)


SIGLIP = Variant(
  vocabulary_size=32000,
  width=768,
  num_heads=12,
  hidden=3072,
  max_tokens=64,
  causal=False,
  read_padding=1,
  epsilon=1e-6,
  activation='gelu_new',
)


class Block(vit.Block):
  """A block that attends to the tokens of one text."""

  def __init__(self, variant: Variant, **options):
    super().__init__(variant, **options)
    self.causal = variant.causal
    self.by_row = False  # See `attention.attend`.

  def _mix(self, heads: tuple, mask_NT: jax.Array) -> jax.Array:
    return attention.attend(
      *heads, mask_NT, causal=self.causal, by_row=self.by_row
    )


class ClipText(encoder.TokenEncoder):
  """Token ids [N, T] to states [N, T, D] of `dtype`, the last one normalised.

  The stages are `embed`, `block1`, `block2`, …, `norm`. Where padding is read
  the states are those of all `max_tokens`, to be pooled by `final`.
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
    table = lambda rows: nnx.Param(
      initializers.normal_002(rngs.params(), (rows, variant.width))
    )
    self.word_embedding = table(variant.vocabulary_size)
    self.position_embedding = table(variant.max_tokens)
    self.blocks = nnx.List(
      Block(variant, index=i, drop_path=0.0, dtype=dtype, rngs=rngs)
      for i in range(variant.depth)
    )
    self.norm = encoder.layer_norm(variant.width, dtype, rngs, variant.epsilon)

  def _states(self, token_NT, mask_NT, key) -> Iterator[jax.Array]:
    del key  # Nothing is random.
    variant, is_packed = self.variant, packed.is_packed(mask_NT)
    if variant.max_tokens < token_NT.shape[1] and not is_packed:
      raise ValueError(
        f'texts of {token_NT.shape[1]} tokens: must have at most '
        f'{variant.max_tokens}'
      )
    if variant.read_padding >= 0:
      if is_packed:
        raise ValueError('texts whose padding is read cannot share rows')
      token_NT = jnp.where(mask_NT, token_NT, variant.read_padding)
      missing = ((0, 0), (0, variant.max_tokens - token_NT.shape[1]))
      token_NT = jnp.pad(
        token_NT, missing, constant_values=variant.read_padding
      )
      mask_NT = jnp.ones_like(token_NT, bool)
    position_NT = jnp.arange(token_NT.shape[1])[None]
    if is_packed:
      position_NT = packed.positions(mask_NT, jnp.ones_like(token_NT))
    x = self.word_embedding[...][token_NT]
    x = (x + self.position_embedding[...][position_NT]).astype(self.dtype)
    yield x
    for block in self.blocks:
      x = encoder.run_block(block, x, None, mask_NT, remat=self.remat)
      yield x
    yield self.norm(x)
