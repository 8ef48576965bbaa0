"""The arguments that losses of pairs of embeddings share."""

from collections.abc import Sequence

import jax
from jax import numpy as jnp

from mrl_jax import nesting
from mrl_jax.losses import prefixes


def validate(
  query_ND: jax.Array,
  key_MD: jax.Array,
  nesting_dims: Sequence[int],
  mask_NM: jax.Array | None,
  axis_name: str | None,
) -> tuple[int, ...]:
  """The nesting dims; ValueError if they or the shapes do not fit."""
  (N, D), (M, width) = query_ND.shape, key_MD.shape
  if width != D or M < N:
    raise ValueError(
      f'queries of shape {query_ND.shape} and keys of shape {key_MD.shape}: '
      'must be as wide, with a key for each query at least'
    )
  if mask_NM is not None and axis_name is None and mask_NM.shape != (N, M):
    raise ValueError(f'mask of shape {mask_NM.shape}: must be {(N, M)}')
  return nesting.validate(nesting_dims, D)


def scales(
  query_ND: jax.Array,
  key_MD: jax.Array,
  dims: tuple[int, ...],
  temperature: float | jax.Array,
  normalize: bool,
) -> tuple[jax.Array, jax.Array]:
  """Float32 factors of the queries [G, N] and of the keys [G, M].

  Those of the queries hold the temperature, those of both the inverse norms of
  the prefixes if `normalize`. Raises ValueError for another number of
  temperatures than one, or one a width.
  """
  arrays = query_ND, key_MD
  scale_GN, key_scale_GM = (
    prefixes.inverse_norms(x, dims)
    if normalize
    else jnp.ones((len(dims), len(x)))
    for x in arrays
  )
  temperature_G1 = each_width('temperature', temperature, dims)
  return scale_GN / temperature_G1, key_scale_GM


def each_width(name: str, value: object, dims: Sequence[int]) -> jax.Array:
  """The value for each width, float32 [G, 1], from one number or an array [G].

  Raises ValueError for an array of another shape.
  """
  array = jnp.asarray(value, jnp.float32)
  if array.shape not in ((), (1,), (len(dims),)):
    raise ValueError(
      f'{name} of shape {array.shape}: must be one number, or one for each of '
      f'{len(dims)} widths'
    )
  return jnp.broadcast_to(array.reshape(-1), len(dims))[:, None]
