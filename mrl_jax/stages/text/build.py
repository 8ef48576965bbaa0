"""The text encoder that a config describes, and its trained arrays."""

import dataclasses

from flax import nnx
from jax import numpy as jnp
from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax import terminal
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop.text import folder as folder_lib
from mrl_jax.models import static_text
from mrl_jax.models import text as text_models
from mrl_jax.stages import init_from
from mrl_jax.stages.text import datasets
from mrl_jax.stages.text import pretrained
from mrl_jax.training.text_step import Objective
from mrl_jax.workdir import Workdir


def model(
  config: ConfigDict,
  workdir: Workdir,
  vocabulary_size: int,
  num_classes: int,
) -> models.Classifier:
  """The model, fresh; without a head but for classification."""
  rngs, dtype = nnx.Rngs(config.seed), jnp.dtype(config.dtype)
  if config.encoder == 'pretrained':
    settings = pretrained.settings(pretrained.copied(workdir))
    if config.text.dropout >= 0:
      settings = _with_dropout(settings, float(config.text.dropout))
  else:
    variant = static_text.Variant(
      vocabulary_size, config.text.width, config.text.max_tokens
    )
    settings = text_models.Settings(variant, normalise=False)
  encoder = text_models.create(
    settings, dtype=dtype, remat=config.remat, rngs=rngs
  )
  return models.Classifier(
    encoder,
    tuple(config.nesting_dims),
    max(num_classes, 1),
    head=config.head,
    dtype=dtype,
    rngs=rngs,
  )


def _with_dropout(settings: text_models.Settings, rate: float):
  backbone = settings.backbone
  names = [x.name for x in dataclasses.fields(backbone)]
  rates = {name: rate for name in names if name.endswith('dropout')}
  return dataclasses.replace(
    settings, backbone=dataclasses.replace(backbone, **rates)
  )


def initialise(config: ConfigDict, model: models.Classifier) -> None:
  """Gives a fresh model the parameters that `init_from` names, if any."""
  if config.encoder != 'pretrained' or not pretrained.is_weights(config):
    init_from.initialise(config, model)
    return
  loaded = folder_lib.open_folder(pretrained.start(config)).load()
  nnx.update(model.encoder, nnx.state(loaded, nnx.Param))
  terminal.say(f'train: starts from {config.init_from}')


def check_tokens(encoder: nnx.Module, tokens: Tokens) -> None:
  """Raises ValueError if the tokenizer has ids that the encoder has not."""
  if tokens.vocabulary_size > encoder.vocabulary_size:
    raise ValueError(
      f'{tokens.path} has {tokens.vocabulary_size} token ids, and the encoder '
      f'{encoder.vocabulary_size}: take the tokenizer that belongs to it'
    )


def objective(config: ConfigDict) -> Objective:
  return Objective(
    config.text.objective,
    tuple(config.nesting_dims),
    temperature=config.text.temperature,
    symmetric=config.text.symmetric,
    of_scores=datasets.of_scores(config),
    similarity_share=float(config.text.similarity_share),
    weights_G=tuple(config.nesting_weights),
    granularities_per_step=config.granularities_per_step,
    label_smoothing=config.label_smoothing,
  )
