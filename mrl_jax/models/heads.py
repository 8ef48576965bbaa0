"""The nested linear heads: one packed kernel for all granularities."""

from collections.abc import Sequence
import itertools
import sys
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.models import initializers

KINDS = ('mrl', 'mrl_e', 'fixed')


class MatryoshkaHead(nnx.Module):
  """Logits of every prefix of the embedding (arXiv 2205.13147, section 3).

  Granularity g reads the prefix of width `nesting_dims[g]`; what lies beyond
  the last one is not read.

  - `mrl`: a classifier of its own for each prefix. Kernel
    `[sum(nesting_dims), C]`, head g in the rows from `sum(nesting_dims[:g])`
    on; bias `[G, C]`.
  - `mrl_e`: one classifier of the full width, its leading rows shared by the
    prefixes. Kernel `[nesting_dims[-1], C]`, bias `[C]`.
  - `fixed`: the fixed-feature baseline, one classifier of one width. Kernel
    `[nesting_dims[0], C]`, bias `[C]`.

  Initialisation is torch's `nn.Linear`: U(-1/sqrt(m), 1/sqrt(m)) for the kernel
  and bias of a head of width m.
  """

  def __init__(
    self,
    nesting_dims: Sequence[int],
    num_classes: int,
    *,
    kind: Literal['mrl', 'mrl_e', 'fixed'] = 'mrl',
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Raises ValueError for bad dims, an unknown kind, or less than a class.

    Args:
      nesting_dims: prefix widths, strictly increasing; for `fixed`, just one.
      num_classes: C.
      kind: which of the three heads.
      dtype: of the products' inputs; they accumulate in float32.
      rngs: the `params` stream initialises the parameters.
    """
    if kind not in KINDS:
      raise ValueError(f'head {kind!r}: must be one of {KINDS}')
    if num_classes < 1:
      raise ValueError(f'num_classes {num_classes}: must be at least 1')
    # The embedding's width is not known yet; `__call__` checks it.
    dims = nesting.validate(nesting_dims, sys.maxsize)
    if kind == 'fixed' and len(dims) > 1:
      raise ValueError(f'nesting_dims {dims}: the fixed head has one width')
    self.nesting_dims = dims
    self.num_classes = num_classes
    self.kind = kind
    self.dtype = dtype
    # The bound of each row of the kernel, and of each row of the bias.
    if kind == 'mrl':
      fan_in_R = np.repeat(dims, dims)[:, None]
      fan_in_bias = np.array(dims)[:, None]
      bias_shape = (len(dims), num_classes)
    else:
      fan_in_R = np.full((dims[-1], 1), dims[-1])
      fan_in_bias = dims[-1]
      bias_shape = (num_classes,)
    self.kernel = nnx.Param(
      initializers.linear_uniform(
        rngs.params(), (len(fan_in_R), num_classes), fan_in_R
      )
    )
    self.bias = nnx.Param(
      initializers.linear_uniform(rngs.params(), bias_shape, fan_in_bias)
    )

  def __call__(self, embedding_ND: jax.Array) -> jax.Array:
    """Float32 logits [G, N, C]; raises ValueError if D is too small."""
    _check_width(embedding_ND, self.nesting_dims[-1])
    if self.kind == 'mrl':
      return self._separate(embedding_ND)
    return self._cumulative(embedding_ND, self.nesting_dims)

  def at(self, embedding_ND: jax.Array, dims: Sequence[int]) -> jax.Array:
    """Float32 logits [len(dims), N, C] at any increasing widths, MRL-E only.

    The shared classifier of `mrl_e` is defined at every width between its
    nesting dims too; the other kinds raise ValueError.
    """
    _check_width(embedding_ND, self.nesting_dims[-1])
    if self.kind != 'mrl_e':
      raise ValueError(
        f'head {self.kind!r} has logits at {self.nesting_dims} only'
      )
    dims = nesting.validate(dims, self.nesting_dims[-1])
    return self._cumulative(embedding_ND, dims)

  def loss(
    self,
    embedding_ND: jax.Array,
    label_N: jax.Array,
    *,
    weights_G: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
  ) -> tuple[jax.Array, jax.Array]:
    """The summed loss and each granularity's, from the embedding.

    See `losses.matryoshka_cross_entropy` for arguments, units and errors.
    """
    return losses.matryoshka_cross_entropy(
      self(embedding_ND),
      label_N,
      weights_G=weights_G,
      label_smoothing=label_smoothing,
    )

  def _separate(self, embedding_ND: jax.Array) -> jax.Array:
    """Each prefix times its own rows: sum(nesting_dims) * C products a row."""
    ends = itertools.accumulate(self.nesting_dims)
    logits = [
      self._product(embedding_ND[:, :m], self.kernel[end - m : end])
      for m, end in zip(self.nesting_dims, ends, strict=True)
    ]
    return jnp.stack(logits) + self.bias[...][:, None, :]

  def _cumulative(
    self, embedding_ND: jax.Array, dims: tuple[int, ...]
  ) -> jax.Array:
    """A running sum over the segments between dims: D * C products a row."""
    segments = [
      self._product(embedding_ND[:, start:end], self.kernel[start:end])
      for start, end in itertools.pairwise((0, *dims))
    ]
    logits_GNC = jnp.stack(list(itertools.accumulate(segments)))
    return logits_GNC + self.bias[...][None, None, :]

  def _product(self, x_NM: jax.Array, kernel_MC: jax.Array) -> jax.Array:
    return jnp.matmul(
      x_NM.astype(self.dtype),
      kernel_MC.astype(self.dtype),
      preferred_element_type=jnp.float32,
    )


def _check_width(embedding_ND: jax.Array, least: int) -> None:
  if embedding_ND.ndim != 2 or embedding_ND.shape[1] < least:
    raise ValueError(
      f'embedding of shape {embedding_ND.shape}: must be [N, D] with D at '
      f'least {least}, the last nesting dim'
    )
