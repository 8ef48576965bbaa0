"""Text encoders: a backbone's token states, pooled, projected, normalised."""

from collections.abc import Callable
import dataclasses
from typing import Any, Literal

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import initializers
from mrl_jax.models import packed

POOLINGS = ('mean', 'cls', 'last')
ACTIVATIONS = {'identity': lambda x: x, 'tanh': jnp.tanh}


@dataclasses.dataclass(frozen=True)
class Projection:
  """A linear layer behind the pooling: the Dense module of a folder.

  Attributes:
    width: width of its output.
    use_bias: whether it has a bias.
    activation: the function of its output, a key of `ACTIVATIONS`.
  """

  width: int
  use_bias: bool = True
  activation: Literal['identity', 'tanh'] = 'identity'

  def __post_init__(self):
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'activation {self.activation!r}: must be one of {tuple(ACTIVATIONS)}'
      )


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of a text encoder, whichever its backbone.

  Attributes:
    backbone: the geometry of the backbone, such as a `bert.Variant`. It has the
      attributes `width`, `max_tokens` and `vocabulary_size`, and a method
      `create(dtype=, remat=, rngs=)` that makes the module.
    pooling: the embedding is the mean of the tokens' states, the first token's
      (`cls`), or the last one's that is no padding.
    projections: linear layers behind the pooling, in order.
    normalise: whether the embedding is scaled to length 1.
  """

  backbone: Any
  pooling: Literal['mean', 'cls', 'last'] = 'mean'
  projections: tuple[Projection, ...] = ()
  normalise: bool = True

  def __post_init__(self):
    if self.pooling not in POOLINGS:
      raise ValueError(f'pooling {self.pooling!r}: must be one of {POOLINGS}')


class TextEncoder(nnx.Module):
  """Token ids [N, T] to float32 embeddings [N, D].

  Attributes:
    settings: what it was made from.
    embedding_dim: width D of the embedding.
    max_tokens: the largest number of tokens T that it takes.
    vocabulary_size: token ids are below this number.
  """

  def __init__(
    self,
    settings: Settings,
    *,
    dtype: jnp.dtype = jnp.float32,
    remat: bool = False,
    rngs: nnx.Rngs,
  ):
    """Makes the encoder with random parameters.

    Args:
      settings: its geometry.
      dtype: dtype of the backbone's computation; parameters are float32, and so
        is all that follows the backbone.
      remat: whether to compute activations inside blocks again in the backward
        pass, which saves memory.
      rngs: the `params` stream initialises the parameters.
    """
    self.settings = settings
    self.max_tokens = settings.backbone.max_tokens
    self.vocabulary_size = settings.backbone.vocabulary_size
    self.backbone = settings.backbone.create(
      dtype=dtype, remat=remat, rngs=rngs
    )
    width, layers = settings.backbone.width, []
    for projection in settings.projections:
      layers.append(
        nnx.Linear(
          width,
          projection.width,
          use_bias=projection.use_bias,
          kernel_init=initializers.normal_002,
          rngs=rngs,
        )
      )
      width = projection.width
    self.projections = nnx.List(layers)
    self.embedding_dim = width

  @property
  def num_features(self) -> int:
    """The same as `embedding_dim`, by the name that image encoders use."""
    return self.embedding_dim

  def __call__(
    self,
    token_NT: jax.Array,
    mask_NT: jax.Array,
    *,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Embeds token ids, int32 [N, T], that are padded on the right.

    `mask_NT` is False on padding. `key` draws the dropout of training; without
    one there is none. A text without tokens has the embedding 0.
    """
    state_NTD = self.backbone(token_NT, mask_NT, key=key)
    return self.from_states(state_NTD, mask_NT)

  def from_states(self, state_NTD: jax.Array, mask_NT: jax.Array) -> jax.Array:
    """The embedding of the backbone's token states."""
    return self._behind(pool(state_NTD, mask_NT, self.settings.pooling))

  def packed(
    self,
    token_RT: jax.Array,
    text_RT: jax.Array,
    num_texts: int,
    *,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """The embeddings [num_texts, D] of texts that share rows, see `packed`.

    Texts 1, 2, … have rows 0, 1, …; those of texts that are not there are 0, or
    what the projections make of that. `key` draws the dropout of training.
    """
    state_RTD = self.backbone(token_RT, text_RT, key=key)
    return self._behind(
      packed.pool(state_RTD, text_RT, num_texts, self.settings.pooling)
    )

  def _behind(self, x: jax.Array) -> jax.Array:
    for projection, layer in zip(
      self.settings.projections, self.projections, strict=True
    ):
      x = ACTIVATIONS[projection.activation](layer(x))
    return normalised(x) if self.settings.normalise else x


def create(settings: Settings, **options) -> TextEncoder:
  """Creates a text encoder with random parameters, see `TextEncoder`."""
  return TextEncoder(settings, **options)


def pool(
  state_NTD: jax.Array,
  mask_NT: jax.Array,
  pooling: Literal['mean', 'cls', 'last'],
) -> jax.Array:
  """Pools the states of each text's tokens to float32 [N, D].

  States where the mask is False do not count; texts without tokens give 0.
  """
  return _POOL[pooling](state_NTD, mask_NT)


def normalised(x_ND: jax.Array) -> jax.Array:
  """Scales each row to length 1; rows of 0 stay 0, and have the gradient 0."""
  square_N1 = jnp.sum(x_ND**2, -1, keepdims=True)
  some_N1 = square_N1 > 0
  return x_ND * jnp.where(
    some_N1, jax.lax.rsqrt(jnp.where(some_N1, square_N1, 1)), 0
  )


def _mean(state_NTD: jax.Array, mask_NT: jax.Array) -> jax.Array:
  mask_NT1 = mask_NT[:, :, None]
  total_ND = jnp.sum(state_NTD, 1, dtype=jnp.float32, where=mask_NT1)
  return total_ND / jnp.maximum(jnp.sum(mask_NT, 1, keepdims=True), 1)


def _first(state_NTD: jax.Array, mask_NT: jax.Array) -> jax.Array:
  first_ND = state_NTD[:, 0].astype(jnp.float32)
  return jnp.where(mask_NT[:, :1], first_ND, 0)


def _last(state_NTD: jax.Array, mask_NT: jax.Array) -> jax.Array:
  last_N = jnp.maximum(jnp.sum(mask_NT, 1) - 1, 0)
  last_ND = jnp.take_along_axis(state_NTD, last_N[:, None, None], 1)[:, 0]
  return jnp.where(mask_NT[:, :1], last_ND.astype(jnp.float32), 0)


_POOL: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'mean': _mean,
  'cls': _first,
  'last': _last,
}
