"""The text encoder that a config describes, and its trained arrays."""

from flax import nnx
from jax import numpy as jnp
from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.models import static_text
from mrl_jax.models import text as text_models
from mrl_jax.training.text_step import Objective


def model(
  config: ConfigDict, vocabulary_size: int, num_classes: int
) -> models.Classifier:
  """The model, fresh; without a head but for classification."""
  rngs, dtype = nnx.Rngs(config.seed), jnp.dtype(config.dtype)
  settings = text_models.Settings(
    static_text.Variant(
      vocabulary_size, config.text.width, config.text.max_tokens
    ),
    normalise=False,
  )
  return models.Classifier(
    text_models.create(settings, dtype=dtype, rngs=rngs),
    tuple(config.nesting_dims),
    max(num_classes, 1),
    head=config.head,
    dtype=dtype,
    rngs=rngs,
  )


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
    weights_G=tuple(config.nesting_weights),
    granularities_per_step=config.granularities_per_step,
    label_smoothing=config.label_smoothing,
  )
