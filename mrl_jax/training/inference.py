"""What every width says of every example, in one pass over a split."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import losses
from mrl_jax.training import state as state_lib

Arrays = Mapping[str, Any]


def make_step(
  graphdef: nnx.GraphDef,
  normalize: Callable[[jax.Array], jax.Array],
  *,
  dims: Sequence[int] | None = None,
  members: Sequence[Sequence[int]] | None = None,
  flip: bool = False,
  saved_dims: Sequence[int] = (),
  embedding: bool = False,
  sharding: jax.sharding.Sharding | None = None,
) -> Callable[[Arrays, Arrays, Arrays], dict[str, jax.Array]]:
  """Returns the jitted `(params, batch_stats, batch) -> outputs`.

  Args:
    graphdef: the static part of a `models.Classifier`.
    normalize: of uint8 images.
    dims: the widths, G of them; None: the head's. Others for MRL-E only.
    members: for a set of other classes, those of the model that count as each:
      its logit is the largest of theirs, and no other class is looked at.
    flip: average the logits of each image and its mirror image.
    saved_dims: of `dims`, those whose logits are put out.
    embedding: put out the embedding.
    sharding: of the outputs; None leaves it to the compiler.

  The outputs are `loss` [G, N] in nats, `top` (the first 5 classes, int32
  [G, N, 5], ties to the lower), `label` and `mask` of the batch, and where
  asked for `logits` (float16 [len(saved_dims), N, C]) and `embedding` [N, D].
  G is 0 for a model without heads.
  """
  member_SM = None if members is None else _padded(members)

  def step(params, batch_stats, batch):
    model = state_lib.evaluation_model(graphdef, params, batch_stats)
    image_NHWC = normalize(batch['image'])
    embedding_ND = model.encoder(image_NHWC)
    read_ND = embedding_ND
    if flip:
      # The heads are linear: their mean is that of the mean.
      read_ND = (embedding_ND + model.encoder(image_NHWC[:, :, ::-1])) / 2
    outputs = {'label': batch['label'], 'mask': batch['mask']}
    if embedding:
      outputs['embedding'] = embedding_ND
    if model.head is None:
      N = len(embedding_ND)
      outputs['loss'] = jnp.zeros((0, N))
      outputs['top'] = jnp.zeros((0, N, 1), jnp.int32)
      return outputs
    widths = tuple(dims or model.head.nesting_dims)
    if widths == model.head.nesting_dims:
      logits_GNC = model.head(read_ND)
    else:
      logits_GNC = model.head.at(read_ND, widths)
    if saved_dims:
      rows = np.array([widths.index(dim) for dim in saved_dims])
      outputs['logits'] = logits_GNC[rows].astype(jnp.float16)
    if member_SM is not None:
      logits_GNC = logits_GNC[:, :, member_SM].max(-1)
    outputs['loss'] = losses.cross_entropy(logits_GNC, batch['label'])
    k = min(5, logits_GNC.shape[-1])
    outputs['top'] = jax.lax.top_k(logits_GNC, k)[1]
    return outputs

  return jax.jit(step, out_shardings=sharding)


def run(
  step: Callable[[Arrays, Arrays, Arrays], dict[str, jax.Array]],
  params: Arrays,
  batch_stats: Arrays,
  batches: Iterable[Arrays],
) -> Iterator[dict[str, np.ndarray]]:
  """The outputs of each batch on the host, with its padding and its mask."""
  pending = None
  for batch in batches:
    outputs = step(params, batch_stats, batch)
    # One batch late, so that the host decodes while the device works.
    if pending:
      yield jax.device_get(pending)
    pending = outputs
  yield jax.device_get(pending)


def _padded(members: Sequence[Sequence[int]]) -> np.ndarray:
  """As an array [S, M]; a class of fewer members has its first repeatedly."""
  most = max(map(len, members))
  return np.array([[*row, *row[:1] * (most - len(row))] for row in members])
