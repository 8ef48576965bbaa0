"""Classification metrics at every granularity."""

from collections.abc import Mapping, Sequence

import jax
from jax import numpy as jnp
import numpy as np


def label_rank(logits_GNC: jax.Array, label_N: jax.Array) -> jax.Array:
  """How many classes rank above the label, int32 [G, N]; ties to the lower id.

  Top-k is right where the rank is below k. A row with NaN logits ranks its
  label last, so that a diverged model never counts as right, and so does one of
  label -1, which is to be masked.
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
  """Sums over the examples that count: what one batch adds to the evaluation.

  Returns `count` (scalar), and `loss`, `top1`, `top5` of shape [G].
  """
  mask_1N = mask_N[None, :]
  return {
    'count': mask_N.sum(),
    'loss': jnp.where(mask_1N, loss_GN, 0).sum(-1),
    'top1': (mask_1N & (rank_GN < 1)).sum(-1),
    'top5': (mask_1N & (rank_GN < 5)).sum(-1),
  }


def from_sums(
  dims: Sequence[int], sums: Mapping[str, np.ndarray], prefix: str = 'val'
) -> dict[str, float]:
  """`val/loss@m` in nats, `val/top1@m` and `val/top5@m` in percent."""
  count = sums['count']
  if not np.asarray(count).all():
    raise ValueError('no example counts: there is nothing to average over')
  return {
    **per_width(f'{prefix}/loss', dims, sums['loss'] / count),
    **per_width(f'{prefix}/top1', dims, 100 * sums['top1'] / count),
    **per_width(f'{prefix}/top5', dims, 100 * sums['top5'] / count),
  }


def per_width(
  name: str, dims: Sequence[int], values_G: Sequence[float]
) -> dict[str, float]:
  """One metric for each width, named as in `train/loss@64`."""
  return {
    f'{name}@{dim}': float(value)
    for dim, value in zip(dims, values_G, strict=True)
  }
