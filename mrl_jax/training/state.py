"""The training state, and the jitted steps that use it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import optax

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import metrics
from mrl_jax.training import trainable as trainable_lib

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
  model: nnx.Module,
  optimizer: optax.GradientTransformation,
  *,
  trainable: Sequence[str] = (),
) -> tuple[nnx.GraphDef, State]:
  """Splits a freshly initialised model into its static part and a State.

  Args:
    model: what does not train of it is put into evaluation mode.
    optimizer: keeps no state of parameters that do not train.
    trainable: patterns of those that do, see `trainable.matches`; none: all.

  Raises:
    ValueError: a pattern matches nothing.
  """
  _freeze_norms(model, trainable_lib.parse(trainable))
  graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  params = nnx.to_pure_dict(params)
  state = State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=nnx.to_pure_dict(batch_stats),
    opt_state=optimizer.init(trainable_lib.split(params, trainable)[0]),
  )
  return graphdef, state


def _freeze_norms(model: nnx.Module, patterns: Sequence[str]) -> None:
  for path, module in nnx.iter_modules(model):
    if isinstance(module, nnx.BatchNorm) and not any(
      trainable_lib.matches((*path, name), patterns)
      for name in ('scale', 'bias')
    ):
      module.use_running_average = True


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

  Args:
    graphdef: the static part of a `models.Classifier`.
    optimizer: what turns gradients into updates.
    augment: `(key, batch, step) -> (image_NHWC, label_N)`, traced inside the
      step; the images come out normalised, in float32.
    seed: of all randomness in the step; the key is `fold_in(key(seed), step)`.
    trainable: as given to `create`. Only these parameters are differentiated
      by, so nothing goes backward below the first of them.
    schedule: the learning rate, if it is to be among the metrics.
    weights_G: the loss weight of each granularity.
    granularities_per_step: see `nesting.sample_weights`; 0 means all.
    label_smoothing: see `losses.matryoshka_cross_entropy`.
    micro_batches: parts of a batch whose gradients are taken one after another
      and averaged, to save memory. The update is that of the whole batch,
      except that BatchNorm normalises each part by its own statistics, and
      its running ones are updated as often.
    sharding: of the pair that is returned, or a tree of those; None leaves it
      to the compiler.

  The metrics are the vector `loss_G` and the scalars `loss` (that of all
  granularities), `grad_norm`, `update_norm` and, with a schedule,
  `learning_rate`.
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

  def gradients(trained, frozen, batch_stats, key, image_NHWC, label_N):
    grad_fn = jax.grad(loss_fn, has_aux=True)

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
    # A part weighs as many as its examples that count.
    count = lambda x_N: losses.counted(x_N, None).sum()
    label_PN = _split(label_N)
    share_P = micro_batches * jax.vmap(count)(label_PN) / jnp.maximum(
      count(label_N), 1
    )  # fmt: skip
    zeros = jax.tree.map(jnp.zeros_like, trained)
    (total, batch_stats), values = jax.lax.scan(
      micro_step,
      (zeros, batch_stats),
      (
        share_P,
        jnp.arange(micro_batches),
        _split(image_NHWC),
        label_PN,
      ),
    )
    mean = lambda total: total / micro_batches
    values = jax.tree.map(lambda x: x.mean(0), values)
    return jax.tree.map(mean, total), values, batch_stats

  def _split(x):
    # Each part has rows of every device, which hold consecutive ones.
    parts = x.reshape(len(x) // micro_batches, micro_batches, *x.shape[1:])
    return jnp.swapaxes(parts, 0, 1)

  def train_step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    image_NHWC, label_N = augment(key, batch, state.step)
    # Far from the few that `augment` splits its key into.
    granularity_key = jax.random.fold_in(key, 2**31)
    trained, frozen = trainable_lib.split(state.params, trainable)
    grads, values, batch_stats = gradients(
      trained, frozen, state.batch_stats, granularity_key, image_NHWC, label_N
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    new_state = State(
      step=state.step + 1,
      params=trainable_lib.merge(trained, frozen),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    values['grad_norm'] = optax.tree.norm(grads)
    values['update_norm'] = optax.tree.norm(updates)
    if schedule is not None:
      values['learning_rate'] = schedule(state.step)
    return new_state, values

  return jax.jit(train_step, donate_argnums=0, out_shardings=sharding)


def make_eval_step(
  graphdef: nnx.GraphDef,
  normalize: Callable[[jax.Array], jax.Array],
  *,
  dims: Sequence[int] | None = None,
  flip: bool = False,
  sharding: jax.sharding.Sharding | None = None,
) -> Callable[[Arrays, Arrays, Arrays], Arrays]:
  """Returns the jitted `(params, batch_stats, batch) -> sums`.

  The batch is `image` (uint8 NHWC), `label` and `mask`; the sums are those of
  `metrics.masked_sums`, at the head's nesting dims, or at `dims` (MRL-E only).
  With `flip` the logits are means over each image and its mirror image.
  `sharding` is that of the sums; None leaves it to the compiler.
  """

  def eval_step(params, batch_stats, batch):
    model = evaluation_model(graphdef, params, batch_stats)
    image_NHWC = normalize(batch['image'])
    embedding_ND = model.encoder(image_NHWC)
    if flip:
      # The heads are linear: their mean is that of the mean.
      embedding_ND += model.encoder(image_NHWC[:, :, ::-1])
      embedding_ND /= 2
    loss_GN, rank_GN = model.head.statistics(embedding_ND, batch['label'], dims)
    mask_N = losses.counted(batch['label'], batch['mask'])
    return metrics.masked_sums(loss_GN, rank_GN, mask_N)

  return jax.jit(eval_step, out_shardings=sharding)


def evaluate(
  eval_step: Callable[[Arrays, Arrays, Arrays], Arrays],
  params: Arrays,
  batch_stats: Arrays,
  batches: Iterable[Arrays],
) -> dict[str, np.ndarray]:
  """Adds up the sums of `make_eval_step` over all batches, in float64.

  Raises ValueError if no example counts, or a loss is not finite.
  """
  totals, pending = {}, None
  for batch in batches:
    sums = eval_step(params, batch_stats, batch)
    # One batch late, so that the host decodes while the device works.
    if pending:
      _add(totals, pending)
    pending = sums
  _add(totals, pending)
  if not totals['count']:
    raise ValueError(
      'every image of the evaluation split is damaged, or has label -1'
    )
  if not np.isfinite(totals['loss']).all():
    raise ValueError(f'the evaluation loss is not finite: {totals["loss"]}')
  return totals


def _add(totals: dict[str, np.ndarray], sums: Arrays) -> None:
  for name, value in jax.device_get(sums).items():
    totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)


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


def evaluation_model(graphdef, params, batch_stats):
  model = nnx.merge(graphdef, params, batch_stats)
  # Encoders without BatchNorm have nothing to set.
  return nnx.view(model, use_running_average=True, raise_if_not_found=False)
