"""The jitted training step: augment, differentiate, update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
import optax

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.training import trainable as trainable_lib
from mrl_jax.training.state import State

Arrays = Mapping[str, Any]


def make_train_step(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  augment: Callable[
    [jax.Array, Arrays, jax.Array], tuple[jax.Array, jax.Array]
  ],
  *,
  seed: int,
  trainable: Sequence[str] = (),
  schedule: optax.Schedule | None = None,
  weights_G: Sequence[float] | None = None,
  granularities_per_step: int = 0,
  label_smoothing: float = 0.0,
  micro_batches: int = 1,
  sharding: Any = None,
) -> Callable[[State, Arrays], tuple[State, Arrays]]:
  """Returns the jitted `(state, batch) -> (state, metrics)`; donates `state`.

  The metrics are the vector `loss_G` and the scalars `loss` (over all nesting
  dims), `grad_norm`, `update_norm` and, with a schedule, `learning_rate`.

  Args:
    graphdef: the graph definition of a `models.Classifier`.
    optimizer: turns gradients into updates.
    augment: `(key, batch, step) -> (image_NHWC, label_N)`, traced inside the
      step; the images come out normalised, in float32.
    seed: seeds all randomness of the step; its key is
      `fold_in(key(seed), step)`.
    trainable: the patterns given to `state.create`. Gradients are taken with
      respect to these parameters only, so the backward pass ends at the first.
    schedule: the learning rate, to be reported among the metrics.
    weights_G: the loss weight of each nesting dim.
    granularities_per_step: see `nesting.sample_weights`; 0 means all.
    label_smoothing: see `losses.matryoshka_cross_entropy`.
    micro_batches: number of parts into which a batch is split; their gradients
      are computed one after another and averaged, which saves memory. The
      update is that of the whole batch, except that BatchNorm normalises each
      part by its own statistics and updates its running ones once a part.
    sharding: the sharding of the returned pair, or a tree of shardings; None
      leaves it to the compiler.
  """

  def loss_fn(trained, frozen, batch_stats, key, part, image_NHWC, label_N):
    params = trainable_lib.merge(trained, frozen)
    model = nnx.merge(graphdef, params, batch_stats)
    G = len(model.head.nesting_dims)
    all_weights_G = nesting.validate_weights(weights_G, G)
    per_step = nesting.validate_per_step(granularities_per_step, G)
    # Far from the granularities' key, which is the same in all parts.
    depth_key = jax.random.fold_in(jax.random.fold_in(key, 2**31), part)
    loss, loss_G = model.loss(
      image_NHWC,
      label_N,
      key=depth_key,
      weights_G=nesting.sample_weights(key, all_weights_G, per_step),
      label_smoothing=label_smoothing,
    )
    values = {
      'loss': jnp.dot(jnp.asarray(all_weights_G), loss_G),
      'loss_G': loss_G,
    }
    batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    return loss, (values, batch_stats)

  gradients = _gradients(loss_fn, micro_batches)

  def train_step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    image_NHWC, label_N = augment(key, batch, state.step)
    # Far from the few keys that `augment` splits its key into.
    granularity_key = jax.random.fold_in(key, 2**31)
    trained, frozen = trainable_lib.split(state.params, trainable)
    grads, values, batch_stats = gradients(
      trained, frozen, state.batch_stats, granularity_key, image_NHWC, label_N
    )
    new_state, measured = update(
      optimizer, state, (trained, frozen), grads, batch_stats, schedule
    )
    return new_state, values | measured

  return jax.jit(train_step, donate_argnums=0, out_shardings=sharding)


def update(
  optimizer: optax.GradientTransformation,
  state: State,
  params: tuple[Arrays, Arrays],
  grads: Arrays,
  batch_stats: Arrays,
  schedule: optax.Schedule | None = None,
) -> tuple[State, dict[str, Any]]:
  """The state after a step, and the metrics `grad_norm` and `update_norm`.

  `params` are the trainable parameters, to which the gradient belongs, and the
  frozen ones. With a schedule, `learning_rate` is among the metrics, too.
  """
  trained, frozen = params
  updates, opt_state = optimizer.update(grads, state.opt_state, trained)
  trained = optax.apply_updates(trained, updates)
  new_state = State(
    step=state.step + 1,
    params=trainable_lib.merge(trained, frozen),
    batch_stats=batch_stats,
    opt_state=opt_state,
  )
  measured = {
    'grad_norm': optax.tree.norm(grads),
    'update_norm': optax.tree.norm(updates),
  }
  if schedule is not None:
    measured['learning_rate'] = schedule(state.step)
  return new_state, measured


def _gradients(loss_fn: Callable, micro_batches: int) -> Callable:
  """Returns the function that averages gradients over the parts of a batch."""
  grad_fn = jax.grad(loss_fn, has_aux=True)

  def gradients(trained, frozen, batch_stats, key, image_NHWC, label_N):
    def micro_step(carry, micro_batch):
      total, batch_stats = carry
      share, *micro_batch = micro_batch
      grads, (values, batch_stats) = grad_fn(
        trained, frozen, batch_stats, key, *micro_batch
      )
      grads, values = jax.tree.map(lambda x: share * x, (grads, values))
      return (jax.tree.map(jnp.add, total, grads), batch_stats), values

    if micro_batches == 1:
      grads, (values, batch_stats) = grad_fn(
        trained, frozen, batch_stats, key, 0, image_NHWC, label_N
      )
      return grads, values, batch_stats
    # A part is weighted by the number of its examples that count.
    count = lambda x_N: losses.counted(x_N, None).sum()
    image_PNHWC, label_PN = (
      _split(x, micro_batches) for x in (image_NHWC, label_N)
    )
    share_P = micro_batches * jax.vmap(count)(label_PN) / jnp.maximum(
      count(label_N), 1
    )  # fmt: skip
    zeros = jax.tree.map(jnp.zeros_like, trained)
    (total, batch_stats), values = jax.lax.scan(
      micro_step,
      (zeros, batch_stats),
      (share_P, jnp.arange(micro_batches), image_PNHWC, label_PN),
    )
    grads = jax.tree.map(lambda x: x / micro_batches, total)
    return grads, jax.tree.map(lambda x: x.mean(0), values), batch_stats

  return gradients


def _split(x: jax.Array, parts: int) -> jax.Array:
  """Splits a batch so that each part has rows of every device.

  A device holds consecutive rows, so a part takes every `parts`-th row.
  """
  x = x.reshape(len(x) // parts, parts, *x.shape[1:])
  return jnp.swapaxes(x, 0, 1)
