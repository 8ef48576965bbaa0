"""Several texts in one row of tokens: where each begins, and their pooling.

Where a row holds one text its mask is of bools. Where it holds several, one
after the other, the mask has the number of the text that each token belongs to,
from 1 on, and 0 for padding, int32 [R, T]. Tokens attend to those of the same
number, and positions begin anew with each text.
"""

from typing import Literal

import jax
from jax import numpy as jnp


def mask(token_NT: jax.Array, length_N: jax.Array) -> jax.Array:
  """The mask of rows of one text each: True for their first tokens, [N, T]."""
  return jnp.arange(token_NT.shape[1])[None] < length_N[:, None]


def is_packed(mask_NT: jax.Array) -> bool:
  """Whether rows hold several texts, by the dtype of the mask."""
  return mask_NT.dtype != jnp.bool_


def positions(mask_NT: jax.Array, counts_NT: jax.Array) -> jax.Array:
  """The number of tokens that count before each one in its text, [N, T].

  `counts_NT` is False for tokens that do not count.
  """
  before_NT = jnp.cumsum(counts_NT, 1) - counts_NT
  if not is_packed(mask_NT):
    return before_NT
  previous_NT = jnp.pad(mask_NT, ((0, 0), (1, 0)))[:, :-1]
  starts_NT = jnp.where(mask_NT != previous_NT, before_NT, 0)
  return before_NT - jax.lax.cummax(starts_NT, 1)


def pool(
  state_RTD: jax.Array,
  text_RT: jax.Array,
  num_texts: int,
  pooling: Literal['mean', 'cls', 'last'],
) -> jax.Array:
  """Pools the states of texts 1, 2, …, `num_texts` to float32 [num_texts, D].

  As `text.pool` does with one text a row; texts that are not there give 0.
  """
  state_MD = state_RTD.reshape(-1, state_RTD.shape[-1])
  text_M = text_RT.reshape(-1)
  each = lambda reduce, x: reduce(x, text_M, num_texts + 1)[1:]
  count_S = each(jax.ops.segment_sum, jnp.ones_like(text_M))
  if pooling == 'mean':
    total_SD = each(jax.ops.segment_sum, state_MD.astype(jnp.float32))
    return total_SD / jnp.maximum(count_S, 1)[:, None]
  reduce = jax.ops.segment_min if pooling == 'cls' else jax.ops.segment_max
  at_S = each(reduce, jnp.arange(len(text_M)))
  picked_SD = state_MD[jnp.clip(at_S, 0, len(text_M) - 1)]
  return jnp.where(count_S[:, None] > 0, picked_SD.astype(jnp.float32), 0)
