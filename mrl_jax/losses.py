"""Matryoshka losses: one classification loss per granularity, summed."""

from collections.abc import Sequence

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import nesting


def cross_entropy(
  logits_GNC: jax.Array, label_N: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
  """Softmax cross-entropy of every example at every granularity, [G, N] nats.

  With smoothing s the target is `(1 - s) * one_hot + s / C`, as in torch.
  """
  label_logit_GN = jnp.take_along_axis(
    logits_GNC, label_N[None, :, None], axis=-1
  ).squeeze(-1)
  log_normalizer_GN = jax.nn.logsumexp(logits_GNC, axis=-1)
  target_logit_GN = (1 - label_smoothing) * label_logit_GN
  if label_smoothing:
    target_logit_GN += label_smoothing * logits_GNC.mean(-1)
  return log_normalizer_GN - target_logit_GN


def matryoshka_cross_entropy(
  logits_GNC: jax.Array,
  label_N: jax.Array,
  *,
  weights_G: Sequence[float] | jax.Array | None = None,
  label_smoothing: float = 0.0,
  mask_N: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The MRL objective (arXiv 2205.13147, eq. 1): a sum, not a mean, over G.

  Args:
    logits_GNC: float logits of each granularity.
    label_N: int classes in [0, C).
    weights_G: the paper's relative importance c_m, or the name of a preset
      (`nesting.PRESETS`); None means all ones.
    label_smoothing: in [0, 1).
    mask_N: bool, the examples that count; None means all.

  Returns:
    The scalar loss `sum_g weights_g * loss_g` and `loss_G`, each granularity's
    unweighted mean over the examples that count, in nats; 0 if none does.

  Raises:
    ValueError: shapes that do not fit, an empty batch, weights of another
      length or negative, smoothing outside [0, 1), and, where the labels are
      concrete (outside jit), a label outside [0, C).
  """
  if logits_GNC.ndim != 3:
    raise ValueError(f'logits of shape {logits_GNC.shape}: must be [G, N, C]')
  _, N, C = logits_GNC.shape
  validate_targets(label_N, N, C, label_smoothing)
  loss_GN = cross_entropy(
    logits_GNC.astype(jnp.float32), label_N, label_smoothing=label_smoothing
  )
  return weighted_sum(loss_GN, weights_G, mask_N)


def weighted_sum(
  loss_GN: jax.Array,
  weights_G: Sequence[float] | jax.Array | None = None,
  mask_N: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The MRL objective from each example's loss at each granularity.

  See `matryoshka_cross_entropy` for arguments and what is returned. Weights
  that are traced, inside jit, are taken as they are.
  """
  G, N = loss_GN.shape
  if not isinstance(weights_G, jax.core.Tracer):
    weights_G = nesting.validate_weights(weights_G, G)
  if mask_N is None:
    loss_G = loss_GN.mean(-1)
  else:
    if mask_N.shape != (N,):
      raise ValueError(f'mask of shape {mask_N.shape}: must be [{N}]')
    loss_GN = jnp.where(mask_N[None, :], loss_GN, 0)
    loss_G = loss_GN.sum(-1) / jnp.maximum(mask_N.sum(), 1)
  return jnp.dot(jnp.asarray(weights_G), loss_G), loss_G


def validate_targets(
  label_N: jax.Array,
  num_examples: int,
  num_classes: int,
  label_smoothing: float = 0.0,
) -> None:
  """Raises ValueError for what `matryoshka_cross_entropy` refuses of these."""
  if label_N.shape != (num_examples,) or not num_examples:
    raise ValueError(
      f'labels of shape {label_N.shape} for {num_examples} examples: '
      'must be [N], N at least 1'
    )
  if not 0 <= label_smoothing < 1:
    raise ValueError(f'label_smoothing {label_smoothing}: must be in [0, 1)')
  if not isinstance(label_N, jax.core.Tracer):
    validate_labels(np.asarray(label_N), num_classes)


def validate_labels(label_N: np.ndarray, num_classes: int) -> None:
  """Raises ValueError naming the first label outside [0, num_classes)."""
  bad = np.flatnonzero((label_N < 0) | (label_N >= num_classes))
  if bad.size:
    raise ValueError(
      f'label {label_N[bad[0]]} at position {bad[0]}: '
      f'must be in [0, {num_classes})'
    )
