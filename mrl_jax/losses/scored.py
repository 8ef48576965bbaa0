"""Losses of pairs whose similarity was scored, at every prefix."""

from collections.abc import Callable, Sequence

import jax
from jax import numpy as jnp

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax.losses import prefixes
from mrl_jax.losses.weighting import weighted_sum

_RULES = {
  'a_ND': checks.floats('ND'),
  'b_ND': checks.floats('ND'),
  'score_N': checks.floats('N'),
  'temperature': checks.positive,
}


@checks.takes(**_RULES)
def matryoshka_cosent(
  a_ND: jax.Array,
  b_ND: jax.Array,
  score_N: jax.Array,
  *,
  nesting_dims: Sequence[int],
  temperature: float | jax.Array = 0.05,
  weights_G: Sequence[float] | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """CoSENT at every prefix: pairs with a higher score are to be more similar.

  A granularity's loss is `log(1 + sum exp((cos_j - cos_i) / temperature))` over
  all i and j of the batch with `score_i > score_j` (J. Su, 2022,
  https://kexue.fm/archives/8847). Only the order of the scores counts.

  Args:
    a_ND: float embeddings of the pairs' first texts.
    b_ND: float embeddings of their second texts, of the same shape.
    score_N: float scores.
    nesting_dims: prefix widths; columns beyond the last are not read.
    temperature: positive divisor of the cosines.
    weights_G: as in `losses.matryoshka_cross_entropy`.

  Returns:
    The scalar loss `sum_g weights_g * loss_g`, and `loss_G` in nats.

  Raises:
    ValueError: shapes or dims that do not fit, bad weights, or a temperature
      that is not positive (where it is concrete).
  """
  return _ranked(
    prefixes.cosines, a_ND, b_ND, score_N, nesting_dims, temperature, weights_G
  )


@checks.takes(**_RULES)
def matryoshka_angle(
  a_ND: jax.Array,
  b_ND: jax.Array,
  score_N: jax.Array,
  *,
  nesting_dims: Sequence[int],
  temperature: float | jax.Array = 0.05,
  weights_G: Sequence[float] | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """AnglE at every prefix (arXiv 2309.12871, eq. 8), as `matryoshka_cosent`.

  In place of the cosine it ranks the normalised angle between the embeddings as
  complex vectors, whose real part is a prefix's first half; its gradient does
  not vanish where the cosine is near 1. Widths must be even.
  """
  if any(dim % 2 for dim in nesting_dims):
    raise ValueError(f'nesting_dims {(*nesting_dims,)}: must be even for AnglE')
  return _ranked(
    _angles, a_ND, b_ND, score_N, nesting_dims, temperature, weights_G
  )


def _ranked(
  similarity: Callable, a_ND, b_ND, score_N, nesting_dims, temperature, weights
) -> tuple[jax.Array, jax.Array]:
  if a_ND.shape != b_ND.shape or score_N.shape != a_ND.shape[:1]:
    raise ValueError(
      f'embeddings of shapes {a_ND.shape} and {b_ND.shape} with scores of '
      f'shape {score_N.shape}: must be pairs with a score each'
    )
  dims = nesting.validate(nesting_dims, a_ND.shape[1])
  similarity_GN = similarity(a_ND, b_ND, dims) / temperature
  above_NN = score_N[:, None] > score_N[None, :]

  def loss(similarity_N):
    gap_NN = similarity_N[None, :] - similarity_N[:, None]
    gap_NN = jnp.where(above_NN, gap_NN, -jnp.inf)
    return jax.nn.logsumexp(jnp.append(gap_NN.ravel(), 0.0))

  loss_G = jax.lax.map(loss, similarity_GN)
  # Each granularity is one number already: a mean over one.
  return weighted_sum(loss_G[:, None], weights)


def _angles(a_ND, b_ND, dims) -> jax.Array:
  angles = []
  for dim in dims:
    half, rows = dim // 2, []
    for x_ND in (a_ND, b_ND):
      x_NM = x_ND[:, :dim].astype(jnp.float32)
      x_NM *= prefixes.inverse_norms(x_NM, (dim,))[0][:, None]
      rows.append((x_NM[:, :half], x_NM[:, half:]))
    (a, b), (c, d) = rows
    # The quotient of unit vectors has unit length up to `|a + bi|^2 = 1`.
    total_N = (a * c + b * d + b * c - a * d).sum(-1)
    angles.append(jnp.abs(total_N))
  return jnp.stack(angles)
