"""Norms and cosines of all prefixes of embeddings."""

from collections.abc import Sequence
import itertools

import jax
from jax import numpy as jnp

# Prefixes of a smaller squared norm have no direction: squares underflow.
_SHORTEST_SQUARE = 1e-26


def inverse_norms(embedding_ND: jax.Array, dims: Sequence[int]) -> jax.Array:
  """1 / the norm of each prefix, float32 [G, N]; 0 below a norm of 1e-13."""
  square_GN = sums(jnp.square(embedding_ND.astype(jnp.float32)), dims)
  is_zero_GN = square_GN < _SHORTEST_SQUARE
  # The gradient of the root at zero would be NaN, even where it is not chosen.
  inverse_GN = jax.lax.rsqrt(jnp.where(is_zero_GN, 1, square_GN))
  return jnp.where(is_zero_GN, 0, inverse_GN)


def cosines(a_ND: jax.Array, b_ND: jax.Array, dims: Sequence[int]) -> jax.Array:
  """The cosine of row i of `a_ND` and row i of `b_ND` at each prefix, [G, N].

  It is float32, and 0 where a prefix has no direction.
  """
  a_ND, b_ND = a_ND.astype(jnp.float32), b_ND.astype(jnp.float32)
  scale_GN = inverse_norms(a_ND, dims) * inverse_norms(b_ND, dims)
  return sums(a_ND * b_ND, dims) * scale_GN


def similarities(x_ND: jax.Array, dims: Sequence[int]) -> jax.Array:
  """The cosines of all rows with each other at each prefix, [G, N, N]."""
  x_ND = x_ND.astype(jnp.float32)
  product = lambda x_Nd: jnp.matmul(
    x_Nd, x_Nd.T, precision=jax.lax.Precision.HIGHEST
  )
  parts = [
    product(x_ND[:, start:end]) for start, end in itertools.pairwise((0, *dims))
  ]
  inverse_GN = inverse_norms(x_ND, dims)
  total_GNN = jnp.stack(list(itertools.accumulate(parts)))
  return total_GNN * inverse_GN[:, :, None] * inverse_GN[:, None, :]


def sums(x_ND: jax.Array, dims: Sequence[int]) -> jax.Array:
  """The sum of the first m numbers of each row, for every m of `dims`."""
  parts = [
    x_ND[:, start:end].sum(-1) for start, end in itertools.pairwise((0, *dims))
  ]
  return jnp.stack(list(itertools.accumulate(parts)))
