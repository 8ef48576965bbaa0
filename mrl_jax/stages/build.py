"""From a config to the objects the stages work with."""

from collections.abc import Callable
import functools
from typing import NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
from ml_collections import ConfigDict
import optax

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax import optim
from mrl_jax import sharding
from mrl_jax import state as state_lib
from mrl_jax import writer
from mrl_jax.checkpoint import Checkpoints
from mrl_jax.data import augment
from mrl_jax.data import resident
from mrl_jax.data import stream
from mrl_jax.data.damage import DamageLog
from mrl_jax.data.evaluation import EvaluationBatches
from mrl_jax.data.source import open_source
from mrl_jax.data.source import Source
from mrl_jax.workdir import Workdir


def widths(config: ConfigDict) -> tuple[int, ...]:
  """The nesting dims and the widths measured between them, increasing."""
  return tuple(sorted({*config.nesting_dims, *config.eval_dims}))


def source(config: ConfigDict, split: str) -> Source:
  """Opens a split; its classes must fit the model's."""
  opened = open_source(config.dataset, split, config.data_dir)
  if config.num_classes and opened.num_classes > config.num_classes:
    raise ValueError(
      f'num_classes {config.num_classes}: dataset {config.dataset} has '
      f'{opened.num_classes}'
    )
  return opened


def model(config: ConfigDict, num_classes: int) -> models.Classifier:
  return models.Classifier(
    config.encoder,
    tuple(config.nesting_dims),
    config.num_classes or num_classes,
    head=config.head,
    blurpool=config.blurpool,
    dtype=jnp.dtype(config.dtype),
    rngs=nnx.Rngs(config.seed),
  )


def optimizer(
  config: ConfigDict, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  schedule = optim.schedule(
    config.schedule,
    config.learning_rate,
    steps_per_epoch=steps_per_epoch,
    num_epochs=config.num_epochs,
    peak_epoch=config.peak_epoch,
    step_epochs=config.step_epochs,
    step_factor=config.step_factor,
  )
  sgd = optim.sgd(
    schedule,
    momentum=config.momentum,
    weight_decay=config.weight_decay,
    mask=config.decay_mask,
  )
  return sgd, schedule


def normalize(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
  return functools.partial(
    augment.normalize, mean=tuple(config.mean), std=tuple(config.std)
  )


def evaluation_batches(
  config: ConfigDict, opened: Source, mesh: jax.sharding.Mesh, damage: DamageLog
) -> EvaluationBatches:
  # Rounded up, since the evaluation pads anyway.
  batch_size = -(-config.eval_batch_size // mesh.size) * mesh.size
  return EvaluationBatches(
    opened,
    batch_size,
    resize=config.eval_resize,
    size=config.eval_image_size,
    damage=damage,
    num_threads=config.num_threads,
  )


def train_batches(
  config: ConfigDict, opened: Source, mesh: jax.sharding.Mesh, damage: DamageLog
):
  """The training input, and the `augment` of `state.make_train_step`."""
  if _is_resident(config, opened):
    size = config.eval_image_size
    if (
      config.augmentation != 'random_resized_crop' and size != config.image_size
    ):
      raise ValueError(
        f'image_size {config.image_size}: resident images are stored at '
        f'eval_image_size={size}, which only random_resized_crop can change'
      )
    images_NHWC, label_N = resident.load(
      opened,
      # To the shorter side itself: the central square loses least.
      resize=size if config.eval_resize else 0,
      size=size,
      damage=damage,
      num_threads=config.num_threads,
    )
    batches = resident.ResidentBatches(
      images_NHWC, label_N, config.batch_size, seed=config.seed, mesh=mesh
    )
    return batches, functools.partial(_augment_resident, config, batches)
  if config.augmentation != 'random_resized_crop':
    raise ValueError(
      f'augmentation {config.augmentation!r}: input stream has only '
      "'random_resized_crop'"
    )
  batches = stream.StreamBatches(
    opened,
    config.batch_size,
    seed=config.seed,
    size=config.image_size,
    scale=tuple(config.crop_scale),
    damage=damage,
    num_threads=config.num_threads,
  )
  return batches, functools.partial(_augment_stream, config)


def _is_resident(config: ConfigDict, opened: Source) -> bool:
  if config.input != 'auto':
    return config.input == 'resident'
  size = len(opened) * 3 * config.eval_image_size**2
  fits = size <= 1e9 * config.resident_gigabytes
  writer.say(
    f'train: {len(opened):,} images take {size / 1e6:,.1f} MB decoded: '
    + ('resident' if fits else 'streamed')
  )
  return fits


def _augment_resident(config, batches, key, batch):
  image_NHWC, label_N = batches.take(batch)
  crop_key, flip_key = jax.random.split(key)
  if config.augmentation == 'shift':
    image_NHWC = augment.random_shift(crop_key, image_NHWC, config.shift)
  elif config.augmentation == 'random_resized_crop':
    image_NHWC = augment.random_resized_crop(
      crop_key, image_NHWC, config.image_size, tuple(config.crop_scale)
    )
  if config.flip:
    image_NHWC = augment.random_flip(flip_key, image_NHWC)
  return normalize(config)(image_NHWC), label_N


def _augment_stream(config, key, batch):
  image_NHWC = batch['image']
  if config.flip:
    image_NHWC = augment.random_flip(key, image_NHWC)
  return normalize(config)(image_NHWC), batch['label']


class Trained(NamedTuple):
  """A trained model on the mesh."""

  graphdef: nnx.GraphDef
  params: state_lib.Arrays
  batch_stats: state_lib.Arrays
  step: int


def trained(
  config: ConfigDict,
  workdir: Workdir,
  mesh: jax.sharding.Mesh,
  num_classes: int,
  *,
  needed_by: str,
) -> Trained:
  """Restores the checkpoint that `config.checkpoint` names.

  Raises ValueError if there is none, or it was trained with another config.
  """
  workdir.require('train', needed_by, workdir.checkpoints)
  sgd, _ = optimizer(config, 1)
  graphdef, fresh = state_lib.create(model(config, num_classes), sgd)
  fresh = jax.device_put(fresh, sharding.replicated(mesh))
  with Checkpoints(
    workdir.checkpoints, keep=config.keep_checkpoints
  ) as checkpoints:
    step = checkpoints.latest_step
    if config.checkpoint == 'best' and checkpoints.best_step is not None:
      step = checkpoints.best_step
    if step is None:
      raise ValueError(
        f'{needed_by} reads a checkpoint in {workdir.checkpoints}, where there '
        'is none: run --mode=train first'
      )
    where = workdir.checkpoints / str(step)
    workdir.check_config(checkpoints.read_config(step), where)
    restored, _ = checkpoints.restore(fresh, step)
  return Trained(graphdef, restored.params, restored.batch_stats, step)


def nesting_weights(config: ConfigDict) -> tuple[float, ...]:
  return nesting.validate_weights(
    tuple(config.nesting_weights), len(config.nesting_dims)
  )
