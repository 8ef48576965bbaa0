"""Nesting dims: the prefix widths at which an embedding must be useful."""

from collections.abc import Sequence
import itertools
import operator
import sys

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import checks
from mrl_jax import values

# Loss weights of the leading widths; all others weigh 1. They gain 2.9 points
# of top-1 at width 8 and cost at most 0.15 at the widest (arXiv 2205.13147,
# Table 27).
PRESETS = {'8boost': (2.0,), '8+16boost': (2.0, 1.5)}


@checks.takes(first=checks.whole(), last=checks.whole())
def doubling(first: int, last: int) -> tuple[int, ...]:
  """Returns the paper's nesting dims: `first`, doubled up to `last` inclusive.

  `doubling(8, 2048)` is the ResNet-50 set and `doubling(12, 768)` the ViT-B/16
  set of the paper (section 4.1). Raises ValueError unless 0 < first <= last.
  """
  if not 0 < first <= last:
    raise ValueError(f'doubling({first}, {last}): needs 0 < first <= last')
  dims = []
  while first < last:
    dims.append(first)
    first *= 2
  return (*dims, last)


@checks.takes(dim=checks.whole(1, sys.maxsize))
def validate(nesting_dims: Sequence[int], dim: int) -> tuple[int, ...]:
  """Returns `nesting_dims` as a tuple; ValueError names a dim that is wrong.

  They must be integers, strictly increasing, positive, and at most `dim`, the
  width of the embedding.
  """
  dims = checks.listed('nesting_dims', nesting_dims)
  if not all(map(values.is_whole, dims)):
    raise ValueError(
      f'nesting_dims {values.shown(dims)}: every dim must be an integer'
    )
  dims = tuple(map(operator.index, dims))
  if not dims:
    raise ValueError('nesting_dims is empty: give at least one width')
  if dims[0] < 1:
    raise ValueError(f'nesting_dims {dims}: {dims[0]} is not positive')
  for previous, current in itertools.pairwise(dims):
    if current <= previous:
      raise ValueError(
        f'nesting_dims {dims}: {current} after {previous} does not increase'
      )
  if dims[-1] > dim:
    raise ValueError(
      f'nesting_dims {dims}: {dims[-1]} is beyond the embedding width {dim}'
    )
  return dims


@checks.takes(num_granularities=checks.whole())
def validate_weights(
  weights_G: Sequence[float] | Sequence[str] | np.ndarray | str | None,
  num_granularities: int,
) -> tuple[float, ...]:
  """Returns a loss weight for each nesting dim; None or empty means all ones.

  A name of PRESETS, alone or as the only element, stands for its weights.
  Raises ValueError for another length, a negative weight, all zeros, or a name
  that is no preset.
  """
  if isinstance(weights_G, str):
    weights_G = (weights_G,) if weights_G else ()
  if weights_G is not None:
    weights_G = checks.listed('nesting_weights', weights_G)
  if not weights_G:
    return (1.0,) * num_granularities
  if len(weights_G) == 1 and isinstance(weights_G[0], str):
    name = weights_G[0]
    leading = PRESETS.get(name, ())
    if not 0 < len(leading) <= num_granularities:
      raise ValueError(
        f'nesting_weights {name!r} for {num_granularities} nesting dims: must '
        f'be numbers or one of {tuple(PRESETS)}, and not weigh more widths'
      )
    return leading + (1.0,) * (num_granularities - len(leading))
  weights = tuple(
    float(checks.number()('nesting_weights', weight)) for weight in weights_G
  )
  if len(weights) != num_granularities:
    raise ValueError(
      f'nesting_weights {weights}: {len(weights)} weights for '
      f'{num_granularities} nesting dims'
    )
  if min(weights) < 0 or not sum(weights):
    raise ValueError(
      f'nesting_weights {weights}: must be at least 0, and not all 0'
    )
  return weights


def validate_per_step(per_step: int, num_granularities: int) -> int:
  """Returns how many nesting dims a step trains; 0 means all.

  Raises ValueError for 1 of several: all but the widest would never train.
  """
  per_step = checks.whole(0)('granularities_per_step', per_step)
  num_granularities = checks.whole()('num_granularities', num_granularities)
  if not per_step:
    return num_granularities
  if not min(2, num_granularities) <= per_step <= num_granularities:
    raise ValueError(
      f'granularities_per_step {per_step} for {num_granularities} nesting '
      f'dims: must be 0 (all), or in [2, {num_granularities}]'
    )
  return per_step


def sample_weights(
  key: jax.Array, weights_G: Sequence[float], per_step: int
) -> jax.Array:
  """Draws loss weights [G] of the widest dim and per_step - 1 others.

  Dims that are left out weigh 0; those drawn weigh (G - 1) / (per_step - 1)
  times their `weights_G`, so that the expectation over keys is `weights_G`.
  """
  weights_G = jnp.asarray(weights_G, jnp.float32)
  others = len(weights_G) - 1
  if per_step > others:
    return weights_G
  drawn = jax.random.permutation(key, others) < per_step - 1
  scale = jnp.where(drawn, others / (per_step - 1), 0)
  return weights_G * jnp.append(scale, 1)
