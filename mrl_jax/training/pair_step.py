"""The jitted training step of towers of images and texts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
import optax

from mrl_jax import nesting
from mrl_jax.models import packed
from mrl_jax.training import inference
from mrl_jax.training import trainable as trainable_lib
from mrl_jax.training.state import State
from mrl_jax.training.train_step import update

Arrays = Mapping[str, Any]


def make_pair_step(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  augment: Callable[
    [jax.Array, Arrays, jax.Array], tuple[jax.Array, jax.Array]
  ],
  *,
  seed: int,
  mesh: jax.sharding.Mesh | None = None,
  trainable: Sequence[str] = (),
  schedule: optax.Schedule | None = None,
  weights_G: Sequence[float] | None = None,
  granularities_per_step: int = 0,
  sharding: Any = None,
) -> Callable[[State, Arrays], tuple[State, Arrays]]:
  """Returns the jitted `(state, batch) -> (state, metrics)`; donates `state`.

  The batches are those of `data.pairs.batches.PairBatches`; the metrics are
  those of `train_step.make_train_step`, and the vector `scale_G`, the factor of
  the cosines at each width.

  Args:
    graphdef: the graph definition of `towers.Towers`.
    optimizer: turns gradients into updates.
    augment: see `train_step.make_train_step`.
    seed: seeds all randomness of the step; its key is
      `fold_in(key(seed), step)`.
    mesh: the mesh over whose axis `data` a batch is split, see
      `Towers.pair_loss`; None: there is one device.
    trainable: the patterns given to `state.create`.
    schedule: the learning rate, to be reported among the metrics.
    weights_G: the loss weight of each nesting dim.
    granularities_per_step: see `nesting.sample_weights`; 0 means all.
    sharding: the sharding of the returned pair, or a tree of shardings.
  """

  def loss_fn(trained, frozen, batch_stats, key, image_NHWC, batch):
    params = trainable_lib.merge(trained, frozen)
    model = nnx.merge(graphdef, params, batch_stats)
    G = len(model.nesting_dims)
    all_weights_G = nesting.validate_weights(weights_G, G)
    per_step = nesting.validate_per_step(granularities_per_step, G)
    loss, loss_G = model.loss(
      image_NHWC,
      batch['token'],
      packed.mask(batch['token'], batch['length']),
      key=jax.random.fold_in(key, 2**31),
      weights_G=nesting.sample_weights(key, all_weights_G, per_step),
      mesh=mesh,
    )
    values = {
      'loss': jnp.dot(jnp.asarray(all_weights_G), loss_G),
      'loss_G': loss_G,
      'scale_G': jnp.exp(model.log_scale[...]),
    }
    batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    return loss, (values, batch_stats)

  def pair_step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    image_NHWC, _ = augment(key, batch, state.step)
    trained, frozen = trainable_lib.split(state.params, trainable)
    grads, (values, batch_stats) = jax.grad(loss_fn, has_aux=True)(
      trained,
      frozen,
      state.batch_stats,
      # Far from the few keys that `augment` splits its key into.
      jax.random.fold_in(key, 2**31),
      image_NHWC,
      batch,
    )
    new_state, measured = update(
      optimizer, state, (trained, frozen), grads, batch_stats, schedule
    )
    return new_state, values | measured

  return jax.jit(pair_step, donate_argnums=0, out_shardings=sharding)


def make_embed_steps(
  graphdef: nnx.GraphDef,
  normalize: Callable[[jax.Array], jax.Array],
  *,
  sharding: jax.sharding.Sharding | None = None,
) -> tuple[Callable[[Arrays, Arrays, Arrays], jax.Array], ...]:
  """Returns the jitted steps that embed images, and that embed texts.

  Both take `(params, batch_stats, batch)` and return embeddings [N, D]; the
  batches have `image`, uint8 NHWC, or `token`, int32 [N, L], and `length`,
  int32 [N]. `normalize` takes uint8 images to float32.
  """

  def embed_images(params, batch_stats, batch):
    model = inference.evaluation_model(graphdef, params, batch_stats)
    return model.encode_images(normalize(batch['image']))

  def embed_texts(params, batch_stats, batch):
    model = inference.evaluation_model(graphdef, params, batch_stats)
    token_NL = batch['token']
    return model.encode_texts(token_NL, packed.mask(token_NL, batch['length']))

  return tuple(
    jax.jit(step, out_shardings=sharding)
    for step in (embed_images, embed_texts)
  )
