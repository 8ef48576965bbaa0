"""The MRL objective: a weighted sum over granularities."""

from collections.abc import Sequence

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import nesting


def weighted_sum(
  loss_GN: jax.Array,
  weights_G: Sequence[float] | jax.Array | None = None,
  mask_N: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The MRL objective from each example's loss at each granularity.

  See `losses.matryoshka_cross_entropy` for arguments and results. Weights that
  are traced, inside jit, are not validated.
  """
  if not isinstance(weights_G, jax.core.Tracer):
    if isinstance(weights_G, jax.Array):
      weights_G = np.asarray(weights_G)
    weights_G = nesting.validate_weights(weights_G, len(loss_GN))
  if mask_N is None:
    loss_G = loss_GN.mean(-1)
  else:
    loss_GN = jnp.where(mask_N[None, :], loss_GN, 0)
    loss_G = loss_GN.sum(-1) / jnp.maximum(mask_N.sum(), 1)
  return jnp.dot(jnp.asarray(weights_G), loss_G), loss_G
