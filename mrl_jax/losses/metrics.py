"""Classification metrics at every granularity."""

from collections.abc import Mapping, Sequence

import jax
from jax import numpy as jnp
import numpy as np


def label_rank(logits_GNC: jax.Array, label_N: jax.Array) -> jax.Array:
  """Number of classes that rank above the label, int32 [G, N].

  Ties rank the lower class first. An example is right in its top k if the rank
  is below k. The rank is last where logits are NaN, so that a diverged model is
  never right, and where the label is -1, which the caller masks.
  """
  C = logits_GNC.shape[-1]
  label_1N1 = jnp.maximum(label_N, 0)[None, :, None]
  label_logit_GN1 = jnp.take_along_axis(logits_GNC, label_1N1, axis=-1)
  classes_11C = jnp.arange(C)[None, None, :]
  below = logits_GNC < label_logit_GN1
  tied_after = (logits_GNC == label_logit_GN1) & (classes_11C > label_1N1)
  above = ~(below | tied_after) & (classes_11C != label_1N1)
  is_last_GN = jnp.isnan(label_logit_GN1.squeeze(-1)) | (label_N < 0)[None, :]
  return jnp.where(is_last_GN, C, above.sum(-1, dtype=jnp.int32))


def masked_sums(
  loss_GN: jax.Array, rank_GN: jax.Array, mask_N: jax.Array
) -> dict[str, jax.Array]:
  """Sums over the examples of a batch whose mask is true.

  Returns `count` (scalar), and `loss`, `top1` and `top5` of shape [G].
  """
  mask_1N = mask_N[None, :]
  return {
    'count': mask_N.sum(),
    'loss': loss_GN.sum(-1, where=mask_1N),
    'top1': (mask_1N & (rank_GN < 1)).sum(-1),
    'top5': (mask_1N & (rank_GN < 5)).sum(-1),
  }


def from_sums(
  dims: Sequence[int], sums: Mapping[str, np.ndarray], prefix: str = 'val/'
) -> dict[str, float]:
  """The metrics `val/loss@m` in nats, `val/top1@m`, `val/top5@m` in percent.

  Raises ValueError if no example counts.
  """
  count = sums['count']
  if not np.asarray(count).all():
    raise ValueError('no example counts: there is nothing to average over')
  return {
    **per_width(f'{prefix}loss', dims, sums['loss'] / count),
    **per_width(f'{prefix}top1', dims, 100 * sums['top1'] / count),
    **per_width(f'{prefix}top5', dims, 100 * sums['top5'] / count),
  }


def per_width(
  name: str, dims: Sequence[int], values_G: Sequence[float]
) -> dict[str, float]:
  """Names the values of a metric by width, as in `train/loss@64`."""
  return {
    f'{name}@{dim}': float(value)
    for dim, value in zip(dims, values_G, strict=True)
  }
