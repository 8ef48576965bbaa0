"""The product of all prefixes with their classifiers, and its gradients."""

from collections.abc import Callable
import dataclasses
import itertools
from typing import Any, Literal, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

KEPT_BYTES = 2**28


def block_bytes(platform: str) -> int:
  """The default size of the logits in one block of classes, by platform.

  With blocks of 8 to 64 MiB, the loss's speed on a CPU changes by less than its
  noise. Compiled for a TPU (8,192 examples, 21,841 classes, nine widths of
  2,048), 512 MiB instead of 32 halve the traffic.
  """
  return 2**25 if platform == 'cpu' else 2**29


@dataclasses.dataclass(frozen=True)
class Spec:
  """Compile-time settings of nested heads (hashable, a static argument).

  Attributes:
    dims: prefix widths, strictly increasing; columns of the embedding from the
      last on are not read.
    shared: whether one kernel `[dims[-1], C]` and bias `[C]` serve all prefixes
      (MRL-E, and one fixed width); otherwise the kernel `[sum(dims), C]` has a
      head for each prefix, one below the other, and the bias is `[G, C]` (MRL).
    dtype: dtype of the products' inputs; they accumulate in float32.
    label_smoothing: see `losses.cross_entropy`.
    kept_bytes: logits of up to this size are kept for the backward pass.
    block_bytes: size of the logits in one block of classes.
    kernel: how logits that are not kept are computed: in blocks by XLA, in
      tiles by Pallas (GPU and TPU, one device), or by Pallas's interpreter.
  """

  dims: tuple[int, ...]
  shared: bool
  dtype: Any = jnp.float32
  label_smoothing: float = 0.0
  kept_bytes: int = KEPT_BYTES
  block_bytes: int = dataclasses.field(
    default_factory=lambda: block_bytes(jax.default_backend())
  )
  kernel: Literal['xla', 'pallas', 'interpret'] = 'xla'


class _Slices(NamedTuple):
  """Columns of the embedding, and the rows of the kernel that they multiply."""

  columns: slice
  rows: slice


def _slices(spec: Spec) -> list[_Slices]:
  if spec.shared:
    segments = itertools.pairwise((0, *spec.dims))
    return [_Slices(slice(*segment), slice(*segment)) for segment in segments]
  ends = itertools.accumulate(spec.dims)
  return [
    _Slices(slice(0, m), slice(end - m, end))
    for m, end in zip(spec.dims, ends, strict=True)
  ]


def _dot(spec, a, b, contract) -> jax.Array:
  return lax.dot_general(
    a.astype(spec.dtype),
    b.astype(spec.dtype),
    (contract, ((), ())),
    preferred_element_type=jnp.float32,
  )


def logits(
  spec: Spec, embedding_ND: jax.Array, kernel_RC: jax.Array, bias: jax.Array
) -> list[jax.Array]:
  """Float32 logits [N, C] of each granularity.

  MRL-E adds the segments between prefixes to a running sum, D * C multiply-adds
  for an example; MRL multiplies each prefix with its own rows, sum(dims) * C
  (arXiv 2205.13147, section 3).
  """
  products = [
    _dot(spec, embedding_ND[:, columns], kernel_RC[rows], ((1,), (0,)))
    for columns, rows in _slices(spec)
  ]
  if spec.shared:
    products[0] += bias[None, :]
    return list(itertools.accumulate(products))
  return [
    product_NC + bias_C[None, :]
    for product_NC, bias_C in zip(products, bias, strict=True)
  ]


def gradients(
  spec: Spec,
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  by_logits: Callable[[int], jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Float32 gradients by embedding, kernel and bias.

  `by_logits(g)` returns the gradient by the logits of granularity g, [N, C]. It
  is called from the last granularity to the first, so that these need not be in
  memory all at once.
  """
  by_prefix, by_rows, by_bias = [], [], []
  gradient_NC = None
  for g, (columns, rows) in reversed(list(enumerate(_slices(spec)))):
    if spec.shared and gradient_NC is not None:
      # A segment belongs to every prefix that reaches its end.
      gradient_NC += by_logits(g)
    else:
      gradient_NC = by_logits(g)
    by_rows.append(
      _dot(spec, embedding_ND[:, columns], gradient_NC, ((0,), (0,)))
    )
    by_prefix.append(_dot(spec, gradient_NC, kernel_RC[rows], ((1,), (1,))))
    by_bias.append(gradient_NC.sum(0))
  if spec.shared:
    by_embedding_NM = jnp.concatenate(by_prefix[::-1], axis=1)
    by_bias = by_bias[-1]
  else:
    by_embedding_NM = by_prefix[0]
    for by_prefix_NM, m in zip(by_prefix[1:], spec.dims[-2::-1], strict=True):
      by_embedding_NM = by_embedding_NM.at[:, :m].add(by_prefix_NM)
    by_bias = jnp.stack(by_bias[::-1])
  unread = embedding_ND.shape[1] - spec.dims[-1]
  by_embedding_ND = jnp.pad(by_embedding_NM, ((0, 0), (0, unread)))
  return by_embedding_ND, jnp.concatenate(by_rows[::-1]), by_bias
