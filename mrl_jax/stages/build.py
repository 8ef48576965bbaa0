"""From a config to the objects the stages work with."""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
from ml_collections import ConfigDict
import optax

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax import terminal
from mrl_jax.data.batches import augment
from mrl_jax.data.batches import resident
from mrl_jax.data.batches import vectors as vector_batches
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.evaluation import EvaluationBatches
from mrl_jax.data.batches.resident import ResidentBatches
from mrl_jax.data.batches.stream import Crops
from mrl_jax.data.batches.stream import StreamBatches
from mrl_jax.data.batches.vectors import EvaluationVectors
from mrl_jax.data.batches.vectors import StreamVectors
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.vectors import open_vectors
from mrl_jax.data.sources.vectors import Vectors
from mrl_jax.models import geometry
from mrl_jax.models.adaptor import Adaptor
from mrl_jax.models.slimmable import SlimmableClassifier
from mrl_jax.stages import recorded
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.predictions import KINDS


def widths(config: ConfigDict) -> tuple[int, ...]:
  """The nesting dims and the widths measured between them, increasing."""
  return tuple(sorted({*config.nesting_dims, *config.eval_dims}))


def resolve(config: ConfigDict) -> ConfigDict:
  """The config with its nesting dims, where it leaves them to the encoder."""
  if config.nesting_dims:
    return config
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.nesting_dims = nesting.doubling(8, num_features(config))
  return config


def saved(config: ConfigDict) -> tuple[str, ...]:
  """What the stage evaluate saves; all of it where analyze is to run, too."""
  wanted = KINDS if 'analyze' in config.modes else config.save
  return tuple(kind for kind in KINDS if kind in wanted)


def source(
  config: ConfigDict, split: str, workdir: Workdir | None = None
) -> Source | Vectors:
  """Opens a split, with labels that are classes of the workdir's model.

  Raises ValueError, naming the classes that came or went, if that is not
  possible. Without a workdir the split is opened as it is.
  """
  if workdir is None:
    return recorded.open_split(config, split)
  return recorded.open_mapped(config, split, workdir)


def vectors(config: ConfigDict, split: str) -> Vectors:
  return open_vectors(
    config.embeddings,
    split,
    labels=config.labels,
    train_split=config.train_split,
  )


def num_features(config: ConfigDict) -> int:
  """Width of the encoder's embedding; of vectors, that of the training split.

  Raises ValueError if there is no such encoder, or no such vectors.
  """
  if config.embeddings:
    return vectors(config, config.train_split).width
  return models.num_features(config.encoder)


def model(config: ConfigDict, num_classes: int) -> models.Classifier:
  rngs = nnx.Rngs(config.seed)
  make = SlimmableClassifier if config.slimmable else models.Classifier
  return make(
    _encoder(config, rngs),
    tuple(config.nesting_dims),
    config.num_classes or num_classes,
    head=config.head,
    dtype=jnp.dtype(config.dtype),
    loss_kernel=config.loss_kernel,
    rngs=rngs,
  )


def _encoder(config: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
  options = {'dtype': jnp.dtype(config.dtype), 'rngs': rngs}
  if config.embeddings:
    return Adaptor(num_features(config), config.adaptor_hidden, **options)
  return models.create(
    config.encoder,
    image_size=config.image_size,
    blurpool=config.blurpool,
    drop_path=config.drop_path,
    remat=config.remat,
    **geometry.options(config),
    **options,
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
  decay = {'weight_decay': config.weight_decay, 'mask': config.decay_mask}
  if config.optimizer == 'adamw':
    return optim.adamw(schedule, betas=tuple(config.betas), **decay), schedule
  return optim.sgd(schedule, momentum=config.momentum, **decay), schedule


def normalize(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
  if config.embeddings:
    return lambda row_ND: row_ND  # The adaptor scales them itself.
  return functools.partial(
    augment.normalize, mean=tuple(config.mean), std=tuple(config.std)
  )


def evaluation_batches(
  config: ConfigDict,
  opened: Source | Vectors,
  mesh: jax.sharding.Mesh,
  damage: DamageLog,
  *,
  flip: bool = False,
) -> EvaluationBatches | EvaluationVectors:
  """In the sizes of the evaluation, or with `flip` of the one with mirrors."""
  if config.embeddings:
    return EvaluationVectors(opened, config.eval_batch_size, mesh=mesh)
  return EvaluationBatches(
    opened,
    config.eval_batch_size,
    mesh=mesh,
    resize=config.flip_eval_resize if flip else config.eval_resize,
    size=config.flip_eval_image_size if flip else config.eval_image_size,
    damage=damage,
    num_threads=config.num_threads,
  )


def train_batches(
  config: ConfigDict, opened: Source, mesh: jax.sharding.Mesh, damage: DamageLog
) -> tuple[ResidentBatches | StreamBatches, Callable]:
  """The training input, and the `augment` of `state.make_train_step`."""
  if config.embeddings:
    return _vector_batches(config, opened, mesh)
  random_crop = config.augmentation == 'random_resized_crop'
  crop_scale = tuple(config.crop_scale)
  if _is_resident(config, opened):
    # Random crops are cut inside the step, from images as large as those of
    # the evaluation: their shorter side and central square.
    size = config.eval_image_size if random_crop else config.image_size
    images_NHWC, label_N = resident.load(
      opened,
      resize=size if config.eval_resize else 0,
      size=size,
      damage=damage,
      num_threads=config.num_threads,
    )
    batches = ResidentBatches(
      images_NHWC, label_N, config.batch_size, mesh=mesh, seed=config.seed
    )
    crop = random_crop
  else:
    batches = StreamBatches(
      opened,
      config.batch_size,
      mesh=mesh,
      seed=config.seed,
      crops=Crops(
        _image_sizes(config),
        crop_scale if random_crop else None,
        resize=bool(config.eval_resize),
      ),
      damage=damage,
      num_threads=config.num_threads,
    )
    crop = False  # The host has cropped.

  def augment_batch(key, batch, step):
    image_NHWC, label_N = batches.take(batch, step)
    crop_key, flip_key = jax.random.split(key)
    if config.augmentation == 'shift':
      image_NHWC = augment.random_shift(crop_key, image_NHWC, config.shift)
    elif crop:
      image_NHWC = augment.random_resized_crop(
        crop_key, image_NHWC, config.image_size, crop_scale
      )
    if config.flip:
      image_NHWC = augment.random_flip(flip_key, image_NHWC)
    return normalize(config)(image_NHWC), label_N

  return batches, augment_batch


def _image_sizes(config: ConfigDict) -> dict[int, int]:
  sizes = {0: config.image_size}
  if config.late_image_size:
    sizes[config.late_epoch] = config.late_image_size
  return sizes


def _is_resident(config: ConfigDict, opened: Source | Vectors) -> bool:
  if config.input != 'auto':
    return config.input == 'resident'
  if config.late_image_size:
    return False  # Resident images are of one size.
  size = len(opened) * 3 * config.eval_image_size**2
  if config.embeddings:
    size = len(opened) * 4 * opened.width
  fits = size <= 1e9 * config.resident_gigabytes
  terminal.say(
    f'train: {size / 1e6:,.1f} MB decoded, '
    + ('kept on the devices' if fits else 'streamed')
  )
  return fits


def _vector_batches(
  config: ConfigDict, opened: Vectors, mesh: jax.sharding.Mesh
) -> tuple[ResidentBatches | StreamVectors, Callable]:
  options = {'mesh': mesh, 'seed': config.seed}
  if _is_resident(config, opened):
    batches = ResidentBatches(
      *vector_batches.load(opened), config.batch_size, **options
    )
  else:
    batches = StreamVectors(opened, config.batch_size, **options)
  return batches, lambda key, batch, step: batches.take(batch, step)


class Trained(NamedTuple):
  """A trained model on the mesh."""

  graphdef: nnx.GraphDef
  params: Mapping[str, Any]
  batch_stats: Mapping[str, Any]
  step: int


def chosen(config: ConfigDict, workdir: Workdir) -> Checkpoint:
  """The checkpoint that `config.checkpoint` names; without any, of step 0."""
  step = workdir.latest_step()
  if step and config.checkpoint == 'best':
    with Checkpoints(workdir.checkpoints) as checkpoints:
      step = checkpoints.best_step or checkpoints.latest_step
  return workdir.checkpoint(step)


def trained(
  config: ConfigDict,
  workdir: Workdir,
  mesh: jax.sharding.Mesh,
  num_classes: int,
  *,
  needed_by: str,
  checkpoint: Checkpoint | None = None,
) -> Trained:
  """Restores the model of a checkpoint; None: the one that the config names.

  Raises ValueError if there is none, or `checkpoint` is not there any more.
  """
  if checkpoint is None:
    checkpoint = chosen(config, workdir)
  step = checkpoint.step
  if step and workdir.checkpoint(step) != checkpoint:
    raise ValueError(
      f'{needed_by} was to read {workdir.checkpoints / str(step)}, which a '
      'training has removed meanwhile: start again'
    )
  if not step:
    raise ValueError(
      f'{needed_by} reads a checkpoint in {workdir.checkpoints}, where there '
      'is none: run --mode=train first'
    )
  graphdef, params, batch_stats = nnx.split(
    nnx.eval_shape(lambda: model(config, num_classes)),
    nnx.Param,
    nnx.BatchStat,
  )
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    {
      'params': nnx.to_pure_dict(params),
      'batch_stats': nnx.to_pure_dict(batch_stats),
    },
  )
  with Checkpoints(workdir.checkpoints) as checkpoints:
    restored = checkpoints.restore_model(like, step)
  if 'train' not in workdir.marks():
    terminal.say(f'{needed_by}: of step {step} of a training not finished yet')
  return Trained(graphdef, **restored, step=step)
