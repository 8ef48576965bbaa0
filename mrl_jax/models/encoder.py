"""What encoders have in common: a chain of named stages, then pooling."""

from collections.abc import Callable

from flax import nnx
import jax
from jax import numpy as jnp


class Encoder(nnx.Module):
  """Float images [N, H, W, 3] to float32 embeddings [N, num_features].

  A subclass sets the attributes, and defines `_run`, which applies one stage,
  and `_pool`, which makes the embedding of what the last one gives.

  Attributes:
    num_features: the embedding's width D.
    stage_names: in their order; `features` has an entry for each.
    dtype: of the computation; parameters are float32.
  """

  num_features: int
  stage_names: tuple[str, ...]
  dtype: jnp.dtype

  def __call__(
    self, image_NHWC: jax.Array, *, key: jax.Array | None = None
  ) -> jax.Array:
    """Embeds the images; `key` is of the random depth, None turns it off."""
    return self._pool(self._after(None, image_NHWC.astype(self.dtype), key, {}))

  def features(
    self, image_NHWC: jax.Array, *, key: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """The activations after each stage, by its name."""
    found = {}
    self._after(None, image_NHWC.astype(self.dtype), key, found)
    return found

  def from_features(
    self,
    x: jax.Array,
    stage: str | None = None,
    *,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """The embedding [N, D] of activations as `features` returns them.

    `stage` names the one they come from, the last if it is None; ValueError if
    there is no such stage.
    """
    stage = self.stage_names[-1] if stage is None else stage
    if stage not in self.stage_names:
      raise ValueError(f'stage {stage!r}: must be one of {self.stage_names}')
    return self._pool(self._after(stage, x, key, {}))

  def _after(self, stage, x, key, found: dict[str, jax.Array]) -> jax.Array:
    """What the stages behind `stage` make of `x`; fills `found` on the way."""
    names = self.stage_names
    for name in names[names.index(stage) + 1 if stage else 0 :]:
      x = found[name] = self._run(name, x, key)
    return x

  def _run(self, name: str, x: jax.Array, key: jax.Array | None) -> jax.Array:
    raise NotImplementedError

  def _pool(self, x: jax.Array) -> jax.Array:
    raise NotImplementedError


def drop_path(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Stochastic depth (arXiv 1603.09382): a branch skipped for some examples.

  Zeroes rows of `x` [N, …] with probability `rate`, and scales up the others
  so that the mean stays. Without a key, in evaluation, `x` itself.
  """
  if key is None or not rate:
    return x
  keeps = jax.random.bernoulli(key, 1 - rate, (len(x), *[1] * (x.ndim - 1)))
  return jnp.where(keeps, x / (1 - rate), 0)


def drop_rates(last: float, depth: int) -> list[float]:
  """Rising in equal steps from 0 at the first block to `last`, as in timm."""
  return [last * i / max(depth - 1, 1) for i in range(depth)]


def run_block(
  block: Callable[..., jax.Array], *args: jax.Array | None, remat: bool
) -> jax.Array:
  """`block(*args)`; with `remat` its inside is computed again backward."""
  call = lambda block, *args: block(*args)
  return (nnx.remat(call) if remat else call)(block, *args)
