"""Matryoshka losses: one loss for each granularity, summed."""

from collections.abc import Sequence

import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import checks
from mrl_jax.losses import contrastive
from mrl_jax.losses import fused
from mrl_jax.losses import pairs
from mrl_jax.losses.distillation import matryoshka_mse as matryoshka_mse
from mrl_jax.losses.distillation import (
  matryoshka_similarity as matryoshka_similarity,
)
from mrl_jax.losses.scored import matryoshka_angle as matryoshka_angle
from mrl_jax.losses.scored import matryoshka_cosent as matryoshka_cosent
from mrl_jax.losses.sigmoid import matryoshka_sigmoid as matryoshka_sigmoid
from mrl_jax.losses.weighting import weighted_sum as weighted_sum

# The label of an example that the loss leaves out.
IGNORED = -1


def cross_entropy(
  logits_GNC: jax.Array, label_N: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
  """Softmax cross-entropy of every example at every granularity, [G, N] nats.

  With smoothing s the target is `(1 - s) * one_hot + s / C`, as in torch. The
  loss is 0 where the label is -1, and NaN where it is no class.
  """
  safe_N, known_N = labels_to_read(label_N, logits_GNC.shape[-1])
  label_logit_GN = jnp.take_along_axis(
    logits_GNC, safe_N[None, :, None], axis=-1
  ).squeeze(-1)
  log_normalizer_GN = jax.nn.logsumexp(logits_GNC, axis=-1)
  target_logit_GN = (1 - label_smoothing) * label_logit_GN
  if label_smoothing:
    target_logit_GN += label_smoothing * logits_GNC.mean(-1)
  return mask_loss(log_normalizer_GN - target_logit_GN, label_N, known_N)


def labels_to_read(
  label_N: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
  """The labels, 0 where they are no class, and whether each is a class."""
  known_N = (label_N >= 0) & (label_N < num_classes)
  return jnp.where(known_N, label_N, 0), known_N


def mask_loss(
  loss_GN: jax.Array, label_N: jax.Array, known_N: jax.Array
) -> jax.Array:
  """Sets the loss to 0 for label -1, and to NaN for labels that are no class.

  Under jit no error can be raised; a loss of NaN stops the training.
  """
  other_N = jnp.where(label_N == IGNORED, 0.0, jnp.nan)
  return jnp.where(known_N[None, :], loss_GN, other_N[None, :])


@checks.takes(
  logits_GNC=checks.floats('GNC'),
  label_N=checks.integers('N'),
  label_smoothing=checks.number(),
  mask_N=checks.booleans('N'),
)
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
    label_N: int classes in [0, C); -1 leaves the example out.
    weights_G: the paper's relative importance c_m, or the name of a preset
      (`nesting.PRESETS`); None means all ones.
    label_smoothing: share of the target spread over all classes, in [0, 1).
    mask_N: bool, which examples count; None means all.

  Returns:
    The scalar loss `sum_g weights_g * loss_g` and `loss_G`, each granularity's
    unweighted mean over the examples that count, in nats; 0 if none does.

  Raises:
    ValueError: shapes that do not fit, an empty batch, weights of another
      length or negative, smoothing outside [0, 1), labels that are no integers,
      and, where they are concrete (outside jit), a label that is neither -1 nor
      in [0, C). Inside jit the loss is NaN then.
  """
  _, N, C = logits_GNC.shape
  label_N = validate_targets(label_N, N, C, label_smoothing)
  loss_GN = cross_entropy(
    logits_GNC.astype(jnp.float32), label_N, label_smoothing=label_smoothing
  )
  return weighted_sum(loss_GN, weights_G, counted(label_N, mask_N))


def counted(label_N: jax.Array, mask_N: jax.Array | None) -> jax.Array:
  """Marks the examples that count: in the mask, with a label but -1."""
  counted_N = label_N != IGNORED
  if mask_N is None:
    return counted_N
  if mask_N.shape != label_N.shape:
    raise ValueError(f'mask of shape {mask_N.shape}: must be {label_N.shape}')
  return counted_N & mask_N


@checks.takes(
  query_ND=checks.floats('ND'),
  key_ND=checks.floats('MD'),
  temperature=checks.each(checks.positive),
  mask_NM=checks.booleans('NM'),
  symmetric=checks.truth,
  normalize=checks.truth,
)
def matryoshka_contrastive(
  query_ND: jax.Array,
  key_ND: jax.Array,
  *,
  nesting_dims: Sequence[int],
  temperature: float | Sequence[float] | jax.Array,
  mask_NM: jax.Array | None = None,
  symmetric: bool = True,
  weights_G: Sequence[float] | jax.Array | None = None,
  normalize: bool = True,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """InfoNCE at every prefix, summed (arXiv 2205.13147, section 3).

  Row i of the queries pairs with row i of the keys, and all other keys are its
  negatives, as in CLIP (arXiv 2103.00020, figure 3); keys beyond the N-th, such
  as hard negatives, pair with no query. One block of the [N, M] similarities is
  in memory at a time. For a batch that is sharded under `jit`, leave
  `axis_name` out.

  Args:
    query_ND: float embeddings.
    key_ND: float embeddings [M, D] of as many keys, or of more: M >= N.
    nesting_dims: prefix widths; columns beyond the last are not read.
    temperature: positive divisor of the similarities: one number, or one for
      each width; arrays if it is learned.
    mask_NM: bool, False where a key is left out of a query's negatives, as it
      might be right; a query's own key always counts. None leaves none out.
      With `axis_name` its columns are the keys of all devices.
    symmetric: whether each key also looks for its query among all queries;
      False: only queries look for their keys.
    weights_G: as in `matryoshka_cross_entropy`.
    normalize: whether each prefix is divided by its own norm.
    axis_name: name of a mapped axis (`shard_map`) over whose devices the batch
      is split; the loss is then that of the whole batch.

  Returns:
    The scalar loss `sum_g weights_g * loss_g` and `loss_G` in nats, each the
    mean over pairs and, if symmetric, over both directions.

  Raises:
    ValueError: shapes that do not fit, an empty batch, dims that do not fit,
      bad weights, or a temperature that is not positive (where it is concrete).
  """
  dims = pairs.validate(query_ND, key_ND, nesting_dims, mask_NM, axis_name)
  query_ND, key_ND = query_ND[:, : dims[-1]], key_ND[:, : dims[-1]]
  scale_GN, key_scale_GM = pairs.scales(
    query_ND, key_ND, dims, temperature, normalize
  )
  loss_GN = contrastive.cross_entropy(
    fused.Spec(
      dims,
      shared=True,
      dtype=jnp.result_type(query_ND, key_ND),
      block_bytes=contrastive.BLOCK_BYTES,
    ),
    axis_name,
    symmetric,
    query_ND,
    key_ND,
    scale_GN,
    key_scale_GM,
    mask_NM,
  )
  loss, loss_G = weighted_sum(loss_GN, weights_G)
  if axis_name is not None:
    loss, loss_G = jax.lax.pmean((loss, loss_G), axis_name)
  return loss, loss_G


def validate_targets(
  label_N: jax.Array,
  num_examples: int,
  num_classes: int,
  label_smoothing: float = 0.0,
) -> jax.Array:
  """The labels, an array [N] of integers, as int32, to be subtracted from.

  Raises ValueError for arguments that `matryoshka_cross_entropy` refuses.
  """
  if len(label_N) != num_examples:
    raise ValueError(
      f'labels of shape {label_N.shape} for {num_examples} examples'
    )
  if not 0 <= label_smoothing < 1:
    raise ValueError(f'label_smoothing {label_smoothing}: must be in [0, 1)')
  if not isinstance(label_N, jax.core.Tracer):
    validate_labels(np.asarray(label_N), num_classes)
  return jnp.asarray(label_N, jnp.int32)


def validate_labels(label_N: np.ndarray, num_classes: int) -> None:
  """Raises ValueError naming the first label that is neither -1 nor a class."""
  bad = np.flatnonzero((label_N < IGNORED) | (label_N >= num_classes))
  if bad.size:
    raise ValueError(
      f'label {label_N[bad[0]]} at position {bad[0]}: '
      f'must be in [0, {num_classes}), or -1 for an example that does not count'
    )
