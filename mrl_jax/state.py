"""The training state, and the two jitted functions that use it."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
import optax

from mrl_jax import losses
from mrl_jax import metrics

Arrays = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """Everything a checkpoint holds, as plain nested dicts of arrays.

  `step` counts the updates done. Randomness is not here: it is a function of
  the seed and `step`.
  """

  step: jax.Array
  params: Arrays
  batch_stats: Arrays
  opt_state: optax.OptState


def create(
  model: nnx.Module, optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, State]:
  """Splits a freshly initialised model into its static part and a State."""
  graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  params = nnx.to_pure_dict(params)
  state = State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=nnx.to_pure_dict(batch_stats),
    opt_state=optimizer.init(params),
  )
  return graphdef, state


def make_train_step(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  augment: Callable[[jax.Array, Arrays], tuple[jax.Array, jax.Array]],
  *,
  seed: int,
  weights_G: Sequence[float] | None = None,
  label_smoothing: float = 0.0,
  sharding: jax.sharding.Sharding | None = None,
) -> Callable[[State, Arrays], tuple[State, Arrays]]:
  """Returns the jitted `(state, batch) -> (state, metrics)`; donates `state`.

  Args:
    graphdef: the static part of a `models.Classifier`.
    optimizer: what turns gradients into updates.
    augment: `(key, batch) -> (image_NHWC, label_N)`, traced inside the step;
      the images come out normalised, in float32.
    seed: of all randomness in the step; the key is `fold_in(key(seed), step)`.
    weights_G: the loss weight of each granularity.
    label_smoothing: see `losses.matryoshka_cross_entropy`.
    sharding: of the new state and the metrics; None leaves it to the compiler.

  The metrics are scalars `loss` and `grad_norm` and the vector `loss_G`.
  """

  def loss_fn(params, batch_stats, image_NHWC, label_N):
    model = nnx.merge(graphdef, params, batch_stats)
    loss, loss_G = model.head.loss(
      model.encoder(image_NHWC),
      label_N,
      weights_G=weights_G,
      label_smoothing=label_smoothing,
    )
    batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    return loss, (loss_G, batch_stats)

  def train_step(state, batch):
    # `augment` is told the step too: resident data is sliced by it.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    image_NHWC, label_N = augment(key, {**batch, 'step': state.step})
    (loss, (loss_G, batch_stats)), grads = jax.value_and_grad(
      loss_fn, has_aux=True
    )(state.params, state.batch_stats, image_NHWC, label_N)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = State(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    grad_norm = optax.tree.norm(grads)
    return new_state, {'loss': loss, 'loss_G': loss_G, 'grad_norm': grad_norm}

  return jax.jit(train_step, donate_argnums=0, out_shardings=sharding)


def make_eval_step(
  graphdef: nnx.GraphDef,
  normalize: Callable[[jax.Array], jax.Array],
  *,
  dims: Sequence[int] | None = None,
) -> Callable[[Arrays, Arrays, Arrays], Arrays]:
  """Returns the jitted `(params, batch_stats, batch) -> sums`.

  The batch is `image` (uint8 NHWC), `label` and `mask`; the sums are those of
  `metrics.masked_sums`, at the head's nesting dims, or at `dims` (MRL-E only).
  """

  @jax.jit
  def eval_step(params, batch_stats, batch):
    model = _evaluation_model(graphdef, params, batch_stats)
    embedding_ND = model.encoder(normalize(batch['image']))
    if dims is None:
      logits_GNC = model.head(embedding_ND)
    else:
      logits_GNC = model.head.at(embedding_ND, dims)
    loss_GN = losses.cross_entropy(logits_GNC, batch['label'])
    rank_GN = metrics.label_rank(logits_GNC, batch['label'])
    return metrics.masked_sums(loss_GN, rank_GN, batch['mask'])

  return eval_step


def make_embed_step(
  graphdef: nnx.GraphDef, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[Arrays, Arrays, Arrays], jax.Array]:
  """Returns the jitted `(params, batch_stats, batch) -> embedding_ND`."""

  @jax.jit
  def embed_step(params, batch_stats, batch):
    model = _evaluation_model(graphdef, params, batch_stats)
    return model.encoder(normalize(batch['image']))

  return embed_step


def _evaluation_model(graphdef, params, batch_stats):
  model = nnx.merge(graphdef, params, batch_stats)
  return nnx.view(model, use_running_average=True)
