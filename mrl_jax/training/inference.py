"""Evaluation, prediction and embedding with a trained model, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax import losses
from mrl_jax.losses import metrics

Arrays = Mapping[str, Any]


def one_behind(outputs: Iterable[Any]) -> Iterator[Any]:
  """Yields each item only after the next one has been computed.

  JAX returns from a jitted step before the device has finished. A caller that
  fetches the item yielded here waits for the step before the one just started,
  so the device always has work while the host decodes.
  """
  waiting = []
  for item in outputs:
    yield from waiting
    waiting = [item]
  yield from waiting


def evaluation_model(
  graphdef: nnx.GraphDef, params: Arrays, batch_stats: Arrays
) -> nnx.Module:
  """The model, with BatchNorm reading its running statistics."""
  model = nnx.merge(graphdef, params, batch_stats)
  # Encoders without BatchNorm have nothing to set.
  return nnx.view(model, use_running_average=True, raise_if_not_found=False)


def make_eval_step(
  graphdef: nnx.GraphDef,
  normalize: Callable[[jax.Array], jax.Array],
  *,
  dims: Sequence[int] | None = None,
  flip: bool = False,
  sharding: jax.sharding.Sharding | None = None,
) -> Callable[[Arrays, Arrays, Arrays], Arrays]:
  """Returns the jitted `(params, batch_stats, batch) -> sums` for `evaluate`.

  The batch holds `image` (uint8 NHWC), `label` and `mask`; the sums are those
  of `metrics.masked_sums`. `graphdef` is that of a `models.Classifier`;
  `normalize` takes uint8 images to float32; `dims` are the widths to evaluate,
  None the nesting dims, others with MRL-E only; `flip` averages the logits of
  each image and its mirror image; `sharding` is that of the outputs.
  """

  def eval_step(params, batch_stats, batch):
    model = evaluation_model(graphdef, params, batch_stats)
    _, embedding_ND = _embed(model, normalize(batch['image']), flip)
    loss_GN, rank_GN = model.head.statistics(embedding_ND, batch['label'], dims)
    mask_N = losses.counted(batch['label'], batch['mask'])
    return metrics.masked_sums(loss_GN, rank_GN, mask_N)

  return jax.jit(eval_step, out_shardings=sharding)


def _embed(
  model: nnx.Module, image_NHWC: jax.Array, flip: bool
) -> tuple[jax.Array, jax.Array]:
  """The images' embeddings, and those that the heads are to read."""
  embedding_ND = model.encoder(image_NHWC)
  if not flip:
    return embedding_ND, embedding_ND
  # The heads are linear: the mean logits are those of the mean embedding.
  mirrored_ND = model.encoder(image_NHWC[:, :, ::-1])
  return embedding_ND, (embedding_ND + mirrored_ND) / 2


def evaluate(
  eval_step: Callable[[Arrays, Arrays, Arrays], Arrays],
  params: Arrays,
  batch_stats: Arrays,
  batches: Iterable[Arrays],
) -> dict[str, np.ndarray]:
  """Adds up the sums of `make_eval_step` over all batches, in float64.

  Raises ValueError if no example counts, or a loss is not finite.
  """
  totals = {}
  for sums in run(eval_step, params, batch_stats, batches):
    for name, value in sums.items():
      totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
  if not totals['count']:
    raise ValueError(
      'every image of the evaluation split is damaged, or has label -1'
    )
  if not np.isfinite(totals['loss']).all():
    raise ValueError(f'the evaluation loss is not finite: {totals["loss"]}')
  return totals


class Wanted(NamedTuple):
  """Settings of `make_predict_step`; `dims` and `flip` as in `make_eval_step`.

  For a set with other classes, `members` are the model's classes that count as
  each: its logit is the largest of theirs, and all others are ignored.
  """

  dims: Sequence[int] | None = None
  members: Sequence[Sequence[int]] | None = None
  flip: bool = False
  saved_dims: Sequence[int] = ()  # Those of `dims` whose logits are returned.
  embedding: bool = False  # Whether the embedding is returned.


def make_predict_step(
  graphdef: nnx.GraphDef,
  normalize: Callable[[jax.Array], jax.Array],
  wanted: Wanted,
  *,
  sharding: jax.sharding.Sharding | None = None,
) -> Callable[[Arrays, Arrays, Arrays], dict[str, jax.Array]]:
  """Returns the jitted `(params, batch_stats, batch) -> outputs`.

  The outputs are `loss` [G, N] in nats, `top` (the 5 best classes, int32
  [G, N, 5], ties to the lower), the batch's `label` and `mask`, and on request
  `logits` (float16 [len(saved_dims), N, C]) and `embedding` [N, D]. G is 0 for
  a model without heads. The other arguments are those of `make_eval_step`.
  """
  member_SM = None if wanted.members is None else _padded(wanted.members)

  def predict_step(params, batch_stats, batch):
    model = evaluation_model(graphdef, params, batch_stats)
    image_NHWC = normalize(batch['image'])
    embedding_ND, read_ND = _embed(model, image_NHWC, wanted.flip)
    outputs = {'label': batch['label'], 'mask': batch['mask']}
    if wanted.embedding:
      outputs['embedding'] = embedding_ND
    if model.head is None:
      N = len(embedding_ND)
      outputs['loss'] = jnp.zeros((0, N))
      outputs['top'] = jnp.zeros((0, N, 1), jnp.int32)
      return outputs
    widths = tuple(wanted.dims or model.head.nesting_dims)
    if widths == model.head.nesting_dims:
      logits_GNC = model.head(read_ND)
    else:
      logits_GNC = model.head.at(read_ND, widths)
    if wanted.saved_dims:
      rows = np.array([widths.index(dim) for dim in wanted.saved_dims])
      outputs['logits'] = logits_GNC[rows].astype(jnp.float16)
    if member_SM is not None:
      logits_GNC = logits_GNC[:, :, member_SM].max(-1)
    outputs['loss'] = losses.cross_entropy(logits_GNC, batch['label'])
    k = min(5, logits_GNC.shape[-1])
    outputs['top'] = jax.lax.top_k(logits_GNC, k)[1]
    return outputs

  return jax.jit(predict_step, out_shardings=sharding)


def make_embed_step(
  graphdef: nnx.GraphDef,
  normalize: Callable[[jax.Array], jax.Array],
  *,
  sharding: jax.sharding.Sharding | None = None,
) -> Callable[[Arrays, Arrays, Arrays], jax.Array]:
  """Returns the jitted `(params, batch_stats, batch) -> embedding_ND`.

  `sharding` is that of the embeddings; None leaves it to the compiler.
  """

  def embed_step(params, batch_stats, batch):
    model = evaluation_model(graphdef, params, batch_stats)
    return model.encoder(normalize(batch['image']))

  return jax.jit(embed_step, out_shardings=sharding)


def run(
  step: Callable[[Arrays, Arrays, Arrays], Arrays],
  params: Arrays,
  batch_stats: Arrays,
  batches: Iterable[Arrays],
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the outputs of each batch on the host, with padding and mask."""
  outputs = (step(params, batch_stats, batch) for batch in batches)
  yield from map(jax.device_get, one_behind(outputs))


def _padded(members: Sequence[Sequence[int]]) -> np.ndarray:
  """Classes' members as [S, M]; a short row repeats its first member."""
  most = max(map(len, members))
  return np.array([[*row, *row[:1] * (most - len(row))] for row in members])
