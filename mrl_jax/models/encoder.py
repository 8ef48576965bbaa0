"""Base classes of the encoders, and what their blocks share."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp

# By Hugging Face's names.
ACTIVATIONS = {
  'gelu': lambda x: nnx.gelu(x, approximate=False),
  'gelu_new': lambda x: nnx.gelu(x, approximate=True),
  # The logistic approximation of OpenAI's CLIP.
  'quick_gelu': lambda x: x * nnx.sigmoid(1.702 * x),
  'relu': nnx.relu,
}


class Encoder(nnx.Module):
  """Float images [N, H, W, 3] to float32 embeddings [N, num_features].

  A subclass sets the attributes, and defines `_run`, which applies one stage,
  and `_pool`, which turns the last stage's activations into the embedding.
  """

  num_features: int  # Width D of the embedding.
  stage_names: tuple[str, ...]  # In order.
  dtype: jnp.dtype  # Of the computation; parameters are float32.

  def __call__(
    self, image_NHWC: jax.Array, *, key: jax.Array | None = None
  ) -> jax.Array:
    """Embeds images; `key` draws the blocks that stochastic depth skips."""
    x = image_NHWC.astype(self.dtype)
    for name in self.stage_names:
      x = self._run(name, x, key)
    return self._pool(x)

  def features(self, image_NHWC: jax.Array) -> dict[str, jax.Array]:
    """The activations after each stage, by its name."""
    x, found = image_NHWC.astype(self.dtype), {}
    for name in self.stage_names:
      x = found[name] = self._run(name, x, None)
    return found

  def from_features(self, x: jax.Array, stage: str | None = None) -> jax.Array:
    """The embedding [N, D] of activations that `features` returned.

    `stage` names the stage that they come from; None stands for the last.
    Raises ValueError for another name.
    """
    names = self.stage_names
    stage = names[-1] if stage is None else stage
    if stage not in names:
      raise ValueError(f'stage {stage!r}: must be one of {names}')
    for name in names[names.index(stage) + 1 :]:
      x = self._run(name, x, None)
    return self._pool(x)


class TokenEncoder(nnx.Module):
  """Token ids [N, T] to states [N, T, D]: the backbone of a text encoder.

  A subclass defines `_states`, which yields the states after each stage, and
  sets `variant`, whose `depth` is the number of blocks.
  """

  last_stages: tuple[str, ...] = ()  # Those that follow the blocks.

  def __call__(
    self,
    token_NT: jax.Array,
    mask_NT: jax.Array,
    *,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """The last states; `key` draws the dropout of training, if there is one.

    `mask_NT` is False on padding, or numbers of texts, see `packed`.
    """
    *_, last = self._states(token_NT, mask_NT, key)
    return last

  def features(
    self, token_NT: jax.Array, mask_NT: jax.Array
  ) -> dict[str, jax.Array]:
    """The states after each stage, by its name."""
    blocks = (f'block{i + 1}' for i in range(self.variant.depth))
    names = ['embed', *blocks, *self.last_stages]
    return dict(zip(names, self._states(token_NT, mask_NT, None), strict=True))


def check_block(variant: Any) -> None:
  """Raises ValueError for heads or an activation that a variant cannot have."""
  if variant.num_heads < 1 or variant.width % variant.num_heads:
    raise ValueError(
      f'num_heads {variant.num_heads}: must divide the width {variant.width}'
    )
  if variant.activation not in ACTIVATIONS:
    raise ValueError(
      f'activation {variant.activation!r}: must be one of {tuple(ACTIVATIONS)}'
    )


def drop_path(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Skips a branch for some examples: stochastic depth (arXiv 1603.09382).

  Zeroes rows of `x` [N, …] with probability `rate`, and scales up the others
  so that the mean stays. Without a key, as in evaluation, returns `x`.
  """
  if key is None or not rate:
    return x
  keeps = jax.random.bernoulli(key, 1 - rate, (len(x), *[1] * (x.ndim - 1)))
  return jnp.where(keeps, x / (1 - rate), 0)


def layer_norm(
  width: int,
  dtype: jnp.dtype,
  rngs: nnx.Rngs,
  epsilon: float = 1e-6,
  *,
  use_bias: bool = True,
) -> nnx.LayerNorm:
  """LayerNorm with torch's variance, from the differences to the mean."""
  return nnx.LayerNorm(
    width,
    epsilon=epsilon,
    use_bias=use_bias,
    use_fast_variance=False,
    dtype=dtype,
    rngs=rngs,
  )


def drop_rates(last: float, depth: int) -> list[float]:
  """Rates that rise evenly from 0 at the first block to `last`, as in timm."""
  return [last * i / max(depth - 1, 1) for i in range(depth)]


def run_block(
  block: Callable[..., jax.Array], *args: jax.Array | None, remat: bool
) -> jax.Array:
  """`block(*args)`; `remat` computes its inside again in the backward pass."""
  call = lambda block, *args: block(*args)
  return (nnx.remat(call) if remat else call)(block, *args)
