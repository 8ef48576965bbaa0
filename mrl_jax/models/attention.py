"""Attention of each token to the other tokens of its text."""

import jax
from jax import numpy as jnp
from jax.extend import backend

from mrl_jax.models import dropout as dropout_lib
from mrl_jax.models import packed

# Rows up to this length are in the cache together.
_SHORT = 64


def implementation(dtype: jnp.dtype) -> str:
  """The implementation of `jax.nn.dot_product_attention` for this platform."""
  # cuDNN's flash attention takes only 16-bit numbers.
  is_cuda = 'cuda' in backend.get_backend().platform_version
  return 'cudnn' if is_cuda and dtype == jnp.bfloat16 else 'xla'


def split_heads(
  qkv_NTE: jax.Array, num_heads: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Queries, keys and values [N, T, heads, width of a head] of one product."""
  N, T, E = qkv_NTE.shape
  shape = (N, T, num_heads, E // 3 // num_heads)
  query, key, value = jnp.split(qkv_NTE, 3, axis=-1)
  return query.reshape(shape), key.reshape(shape), value.reshape(shape)


def attend(
  query_NTHE: jax.Array,
  key_NTHE: jax.Array,
  value_NTHE: jax.Array,
  mask_NT: jax.Array,
  *,
  bias_1HTT: jax.Array | None = None,
  window: int | None = None,
  causal: bool = False,
  dropout: float = 0.0,
  rng: jax.Array | None = None,
  by_row: bool = False,
) -> jax.Array:
  """Mixes values by softmax(query key^T / sqrt(E) + bias), [N, T, H * E].

  Args:
    query_NTHE: queries of N texts of T tokens, in H heads of width E.
    key_NTHE: keys.
    value_NTHE: values.
    mask_NT: False for tokens that nothing attends to, the padding, which is on
      the right; or numbers of texts, as `packed` describes.
    bias_1HTT: added to the logits.
    window: tokens further away than this are not attended to; None: all are.
    causal: whether tokens attend to none that come later.
    dropout: share of the weights that are zeroed, with `rng`.
    rng: key of the dropout; None: there is none.
    by_row: whether to go from row to row where these are long, so that the
      logits of one are still in a CPU's cache where they are read.
  """
  is_packed = packed.is_packed(mask_NT)
  mask_N1TT = mask_NT[:, None, None, :]
  if is_packed:
    mask_N1TT = mask_N1TT == mask_NT[:, None, :, None]
  if window is not None:
    position_T = jnp.arange(mask_NT.shape[1])
    distance_TT = jnp.abs(position_T[:, None] - position_T[None, :])
    mask_N1TT = mask_N1TT & (distance_TT <= window)[None, None]
  if causal:
    position_T = jnp.arange(mask_NT.shape[1])
    before_TT = position_T[:, None] >= position_T[None, :]
    mask_N1TT = mask_N1TT & before_TT[None, None]
  arrays = query_NTHE, key_NTHE, value_NTHE
  which = implementation(query_NTHE.dtype)
  if rng is not None and dropout:
    mixed = _dropped(*arrays, mask_N1TT, bias_1HTT, dropout, rng)
  elif by_row and mask_NT.shape[1] > _SHORT:
    mixed = _by_row(*arrays, mask_N1TT, bias_1HTT)
  elif which == 'cudnn' and window is None and not (is_packed or causal):
    # Lengths, which cuDNN skips the padding by, in place of a mask.
    lengths_N = jnp.maximum(mask_NT.sum(1, dtype=jnp.int32), 1)
    mixed = jax.nn.dot_product_attention(
      *arrays,
      bias_1HTT,
      key_value_seq_lengths=lengths_N,
      implementation=which,
    )
  else:
    mixed = jax.nn.dot_product_attention(
      *arrays, bias_1HTT, mask_N1TT, implementation=which
    )
  return mixed.reshape(*mixed.shape[:2], -1)


def _dropped(query, key, value, mask, bias, dropout, rng) -> jax.Array:
  """Attention with dropout, which `dot_product_attention` does not have."""
  logits_NHTT = jnp.einsum(
    'NTHE,NSHE->NHTS', query, key, preferred_element_type=jnp.float32
  )
  logits_NHTT = logits_NHTT / query.shape[-1] ** 0.5
  if bias is not None:
    logits_NHTT = logits_NHTT + bias
  # Finite, so that a text of padding alone has no NaN.
  logits_NHTT = jnp.where(mask, logits_NHTT, jnp.finfo(jnp.float32).min)
  weights_NHTT = jax.nn.softmax(logits_NHTT)
  weights_NHTT = dropout_lib.dropout(weights_NHTT, dropout, rng)
  return jnp.einsum('NHTS,NSHE->NTHE', weights_NHTT.astype(value.dtype), value)


def _by_row(query, key, value, mask, bias) -> jax.Array:
  """The same, one text after the other."""
  scale = query.shape[-1] ** -0.5
  mask = jnp.broadcast_to(mask, (*mask.shape[:2], *2 * query.shape[1:2]))

  def row(arrays):
    query_HTE, key_HTE, value_HTE = (jnp.moveaxis(x, 1, 0) for x in arrays[:3])
    logits_HTT = jnp.einsum(
      'HTE,HSE->HTS',
      query_HTE * scale,
      key_HTE,
      preferred_element_type=jnp.float32,
    )
    if bias is not None:
      logits_HTT = logits_HTT + bias[0]
    logits_HTT = jnp.where(arrays[3], logits_HTT, jnp.finfo(jnp.float32).min)
    # The sum divides the mixture, which is smaller than the weights.
    weight_HTT = jnp.exp(logits_HTT - logits_HTT.max(-1, keepdims=True))
    mixed_HTE = jnp.einsum(
      'HTS,HSE->HTE',
      weight_HTT.astype(value.dtype),
      value_HTE,
      preferred_element_type=jnp.float32,
    )
    mixed_HTE = mixed_HTE / weight_HTT.sum(-1, keepdims=True)
    return jnp.moveaxis(mixed_HTE, 0, 1).astype(value.dtype)

  return jax.lax.map(row, (query, key, value, mask))
