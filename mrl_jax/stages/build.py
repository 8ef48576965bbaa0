"""The model and the optimizer that a config describes."""

from flax import nnx
from jax import numpy as jnp
from ml_collections import ConfigDict
import optax

from mrl_jax import models
from mrl_jax.models import geometry
from mrl_jax.models.adaptor import Adaptor
from mrl_jax.models.slimmable import SlimmableClassifier
from mrl_jax.stages import config as config_lib
from mrl_jax.training import optim


def model(config: ConfigDict, num_classes: int) -> models.Classifier:
  """The model, fresh; the config's `num_classes` goes before this number."""
  rngs = nnx.Rngs(config.seed)
  make = SlimmableClassifier if config.slimmable else models.Classifier
  return make(
    encoder(config, rngs),
    tuple(config.nesting_dims),
    config.num_classes or num_classes,
    head=config.head,
    dtype=jnp.dtype(config.dtype),
    loss_kernel=config.loss_kernel,
    rngs=rngs,
  )


def encoder(config: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
  """The encoder of images or vectors, fresh."""
  options = {'dtype': jnp.dtype(config.dtype), 'rngs': rngs}
  if config.embeddings:
    return Adaptor(
      config_lib.num_features(config), config.adaptor_hidden, **options
    )
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
  """The optimizer, and its learning rate by step."""
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
