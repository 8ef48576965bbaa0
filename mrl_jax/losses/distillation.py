"""Losses that bring embeddings near to a teacher's, at every prefix."""

from collections.abc import Sequence

import jax
from jax import numpy as jnp

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax.losses import prefixes
from mrl_jax.losses.weighting import weighted_sum


@checks.takes(embedding_ND=checks.floats('ND'), teacher_NE=checks.floats('NE'))
def matryoshka_mse(
  embedding_ND: jax.Array,
  teacher_NE: jax.Array,
  *,
  nesting_dims: Sequence[int],
  weights_G: Sequence[float] | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Mean squared distance to a nested teacher's vectors, at every prefix.

  A granularity's loss is the mean over rows of `|s - t|^2`, where s and t are
  the prefixes of that width, each divided by its own norm: `2 - 2 cos(s, t)`.

  Args:
    embedding_ND: float embeddings of the student.
    teacher_NE: float vectors of the teacher, whose prefixes are embeddings as
      well.
    nesting_dims: prefix widths; columns beyond the last are not read.
    weights_G: as in `losses.matryoshka_cross_entropy`.

  Returns:
    The scalar loss `sum_g weights_g * loss_g` and `loss_G`.

  Raises:
    ValueError: another number of rows, a teacher that is narrower than the last
      of the dims, dims that do not fit, or bad weights.
  """
  dims = _validate(embedding_ND, teacher_NE, nesting_dims)
  if teacher_NE.shape[1] < dims[-1]:
    raise ValueError(
      f'teacher of width {teacher_NE.shape[1]}: must have the {dims[-1]} '
      'numbers of the widest prefix'
    )
  cosine_GN = prefixes.cosines(embedding_ND, teacher_NE, dims)
  return weighted_sum(2 - 2 * cosine_GN, weights_G)


@checks.takes(
  embedding_ND=checks.floats('ND'),
  teacher_NE=checks.floats('NE'),
  temperature=checks.positive,
)
def matryoshka_similarity(
  embedding_ND: jax.Array,
  teacher_NE: jax.Array,
  *,
  nesting_dims: Sequence[int],
  temperature: float | jax.Array = 0.05,
  weights_G: Sequence[float] | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Divergence from a teacher's similarities in the batch, at every prefix.

  For each row, the cosines with all other rows, divided by the temperature,
  give a distribution by a softmax. A granularity's loss is the mean over rows
  of the Kullback-Leibler divergence of the student's distribution at that
  width from the teacher's at its full width (as SEED, arXiv 2101.04731, within
  the batch). The teacher's width may differ from the student's.

  Arguments, results and errors are those of `matryoshka_mse`, with a positive
  temperature; the loss is in nats, and a batch has two rows or more.
  """
  dims = _validate(embedding_ND, teacher_NE, nesting_dims)
  if len(embedding_ND) < 2:
    raise ValueError('similarities need two rows or more: there is one')
  target_NN = _log_shares(
    prefixes.similarities(teacher_NE, teacher_NE.shape[1:])[0], temperature
  )
  similarity_GNN = prefixes.similarities(embedding_ND, dims)

  def divergence(similarity_NN):
    found_NN = _log_shares(similarity_NN, temperature)
    # A share of 0, such as those of the diagonal, adds nothing.
    gap_NN = jnp.where(target_NN > -jnp.inf, target_NN - found_NN, 0)
    return (jnp.exp(target_NN) * gap_NN).sum(1)

  return weighted_sum(jax.lax.map(divergence, similarity_GNN), weights_G)


def _validate(embedding_ND, teacher_NE, nesting_dims) -> tuple[int, ...]:
  if len(embedding_ND) != len(teacher_NE):
    raise ValueError(
      f'embeddings of shape {embedding_ND.shape} and a teacher of '
      f'{teacher_NE.shape}: must have as many rows'
    )
  return nesting.validate(nesting_dims, embedding_ND.shape[1])


def _log_shares(similarity_NN: jax.Array, temperature) -> jax.Array:
  """Logarithms of each row's softmax without the diagonal, which is -inf."""
  is_own_NN = jnp.eye(len(similarity_NN), dtype=bool)
  logits_NN = jnp.where(is_own_NN, -jnp.inf, similarity_NN / temperature)
  return jax.nn.log_softmax(logits_NN, axis=1)
