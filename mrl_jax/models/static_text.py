"""Static token embeddings, the backbone of a text encoder without layers.

A text is the mean of its tokens' vectors, which know nothing of each other, as
in Model2Vec (https://github.com/MinishLab/model2vec). It trains and embeds in
seconds on a CPU.
"""

import dataclasses

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import initializers


@dataclasses.dataclass(frozen=True)
class Variant:
  """The geometry of a static backbone.

  Attributes:
    vocabulary_size: token ids are below this number.
    width: width of the tokens' vectors.
    max_tokens: the largest number of tokens of a text.
    weighted: whether each token has a learned weight, which begins at 1.
  """

  vocabulary_size: int
  width: int
  max_tokens: int = 512
  weighted: bool = True

  def create(
    self,
    *,
    dtype: jnp.dtype = jnp.float32,
    remat: bool = False,
    rngs: nnx.Rngs,
  ) -> 'StaticTokens':
    del remat  # There are no blocks.
    return StaticTokens(self, dtype=dtype, rngs=rngs)


class StaticTokens(nnx.Module):
  """Token ids [N, T] to the tokens' own vectors [N, T, D]."""

  def __init__(self, variant: Variant, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    """Makes random vectors; `dtype` is that of the result."""
    self.dtype = dtype
    self.embeddings = nnx.Param(
      initializers.normal_002(
        rngs.params(), (variant.vocabulary_size, variant.width)
      )
    )
    self.weighted = variant.weighted
    if variant.weighted:
      self.weights = nnx.Param(jnp.ones(variant.vocabulary_size))

  def __call__(
    self,
    token_NT: jax.Array,
    mask_NT: jax.Array,
    *,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Looks the vectors up; those of padding do not count in any pooling."""
    del mask_NT, key  # Nothing is random.
    state_NTD = jnp.take(self.embeddings[...], token_NT, axis=0)
    if self.weighted:
      state_NTD *= jnp.take(self.weights[...], token_NT)[:, :, None]
    return state_NTD.astype(self.dtype)
