"""Nested linear heads, with one packed kernel for all granularities."""

from collections.abc import Sequence
import sys
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import checks
from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import fused
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

  @checks.takes(
    num_classes=checks.whole(),
    dtype=checks.dtype('float32', 'bfloat16', 'float16'),
    loss_kernel=checks.choice('xla', 'pallas'),
    kind=checks.choice(*KINDS),
  )
  def __init__(
    self,
    nesting_dims: Sequence[int],
    num_classes: int,
    *,
    kind: Literal['mrl', 'mrl_e', 'fixed'] = 'mrl',
    dtype: jnp.dtype = jnp.float32,
    loss_kernel: Literal['xla', 'pallas'] = 'xla',
    rngs: nnx.Rngs,
  ):
    """Makes the heads with random parameters.

    Args:
      nesting_dims: prefix widths, strictly increasing; for `fixed`, just one.
      num_classes: number of classes C.
      kind: which of the three heads.
      dtype: float dtype of the products' inputs; they accumulate in float32.
      loss_kernel: see `fused.Spec.kernel`.
      rngs: the `params` stream initialises the parameters.

    Raises:
      ValueError: an argument is none of these.
    """
    # The embedding's width is not known yet; `__call__` checks it.
    dims = nesting.validate(nesting_dims, sys.maxsize)
    if kind == 'fixed' and len(dims) > 1:
      raise ValueError(f'nesting_dims {dims}: the fixed head has one width')
    self.nesting_dims = dims
    self.num_classes = num_classes
    self.kind = kind
    self.dtype = dtype
    self.loss_kernel = loss_kernel
    # The width that bounds the values of each row of the kernel and the bias.
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

  @checks.takes(embedding_ND=checks.floats('ND'))
  def __call__(self, embedding_ND: jax.Array) -> jax.Array:
    """Float32 logits [G, N, C]; raises ValueError if D is too small."""
    return self._logits(self.nesting_dims, embedding_ND)

  @checks.takes(embedding_ND=checks.floats('ND'))
  def at(self, embedding_ND: jax.Array, dims: Sequence[int]) -> jax.Array:
    """Float32 logits [len(dims), N, C] at any increasing widths, MRL-E only.

    The shared classifier of `mrl_e` is defined at every width between its
    nesting dims too; the other kinds raise ValueError.
    """
    return self._logits(self._between(dims), embedding_ND)

  @checks.takes(g=checks.whole(-(2**31)))
  def weights(self, g: int) -> tuple[jax.Array, jax.Array]:
    """Kernel [m, C] and bias [C] of the classifier of `nesting_dims[g]`.

    Its logits are `embedding_ND[:, :m] @ kernel + bias`, for callers that need
    one width alone, such as `analysis.cascade.walk`.
    """
    G = len(self.nesting_dims)
    if not -G <= g < G:
      raise ValueError(f'g {g}: must be in [0, {G}), the nesting dims')
    m = self.nesting_dims[g]
    kernel_RC, bias = self.kernel[...], self.bias[...]
    if self.kind != 'mrl':
      return kernel_RC[:m], bias
    start = sum(self.nesting_dims[:g])
    return kernel_RC[start : start + m], bias[g]

  @checks.takes(
    embedding_ND=checks.floats('ND'),
    label_N=checks.integers('N'),
    label_smoothing=checks.number(),
    mask_N=checks.booleans('N'),
  )
  def loss(
    self,
    embedding_ND: jax.Array,
    label_N: jax.Array,
    *,
    weights_G: Sequence[float] | jax.Array | None = None,
    label_smoothing: float = 0.0,
    mask_N: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The summed loss and the loss of each granularity, from the embedding.

    Equal to `losses.matryoshka_cross_entropy` of the logits, which describes
    arguments, units and errors, but never has all logits in memory.
    """
    _check_width(embedding_ND, self.nesting_dims[-1])
    label_N = losses.validate_targets(
      label_N, len(embedding_ND), self.num_classes, label_smoothing
    )
    safe_N, known_N = losses.labels_to_read(label_N, self.num_classes)
    loss_GN = fused.cross_entropy(
      self._spec(
        self.nesting_dims,
        label_smoothing=label_smoothing,
        kernel=self.loss_kernel,
      ),
      embedding_ND,
      self.kernel[...],
      self.bias[...],
      safe_N,
    )
    loss_GN = losses.mask_loss(loss_GN, label_N, known_N)
    counted_N = losses.counted(label_N, mask_N)
    return losses.weighted_sum(loss_GN, weights_G, counted_N)

  @checks.takes(
    embedding_ND=checks.floats('ND'),
    label_N=checks.integers('N'),
  )
  def statistics(
    self,
    embedding_ND: jax.Array,
    label_N: jax.Array,
    dims: Sequence[int] | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Loss in nats and rank of each label, both [G, N], for evaluation.

    Ranks are those of `metrics.label_rank` up to 4; 5 stands for every higher
    rank, and for examples of label -1, whose loss is 0. `dims` are widths as in
    `at`; None stands for the nesting dims.
    """
    _check_width(embedding_ND, self.nesting_dims[-1])
    label_N = losses.validate_targets(
      label_N, len(embedding_ND), self.num_classes
    )
    safe_N, known_N = losses.labels_to_read(label_N, self.num_classes)
    loss_GN, rank_GN = fused.statistics(
      self._spec(self._between(dims) if dims else self.nesting_dims),
      embedding_ND,
      self.kernel[...],
      self.bias[...],
      safe_N,
    )
    loss_GN = losses.mask_loss(loss_GN, label_N, known_N)
    return loss_GN, jnp.where(known_N[None, :], rank_GN, 5)

  def _logits(
    self, dims: tuple[int, ...], embedding_ND: jax.Array
  ) -> jax.Array:
    _check_width(embedding_ND, self.nesting_dims[-1])
    return fused.logits(
      self._spec(dims), embedding_ND, self.kernel[...], self.bias[...]
    )

  def _between(self, dims: Sequence[int]) -> tuple[int, ...]:
    if self.kind != 'mrl_e':
      raise ValueError(
        f'head {self.kind!r} has logits at {self.nesting_dims} only'
      )
    return nesting.validate(dims, self.nesting_dims[-1])

  def _spec(self, dims: tuple[int, ...], **kwargs) -> fused.Spec:
    return fused.Spec(
      dims, shared=self.kind != 'mrl', dtype=self.dtype, **kwargs
    )


def _check_width(embedding_ND: jax.Array, least: int) -> None:
  if embedding_ND.ndim != 2 or embedding_ND.shape[1] < least:
    raise ValueError(
      f'embedding of shape {embedding_ND.shape}: must be [N, D] with D at '
      f'least {least}, the last nesting dim'
    )
