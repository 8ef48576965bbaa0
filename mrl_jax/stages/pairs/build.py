"""The towers that a config describes."""

from collections.abc import Sequence
import dataclasses

from flax import nnx
from jax import numpy as jnp
from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax.models import bert
from mrl_jax.models import clip_text
from mrl_jax.models import static_text
from mrl_jax.models import text as text_models
from mrl_jax.models import towers
from mrl_jax.stages import build as build_lib
from mrl_jax.stages.pairs import start
from mrl_jax.workdir import Workdir

# The geometry and the pooling of the text encoders.
_TEXTS = {
  'static': (static_text.Variant(1, 256), 'mean'),
  'bert': (bert.Variant(), 'cls'),
  'clip': (clip_text.Variant(), 'last'),
  'siglip': (clip_text.SIGLIP, 'final'),
}
TEXT_ENCODERS = (*_TEXTS, 'pretrained')


def model(
  config: ConfigDict, workdir: Workdir | None = None, pad_id: int = 0
) -> towers.Towers:
  """The towers, fresh; `pad_id` is the padding token of the texts.

  The settings of a pretrained text encoder are read in the workdir. Raises
  ValueError for towers of different widths.
  """
  rngs, dtype = nnx.Rngs(config.seed), jnp.dtype(config.dtype)
  pairs = config.pairs
  projection = text_models.Projection(
    pairs.width, use_bias=pairs.text == 'siglip'
  )
  return towers.Towers(
    build_lib.encoder(config, rngs),
    text_models.create(
      text_settings(config, workdir, pad_id),
      dtype=dtype,
      remat=config.remat,
      rngs=rngs,
    ),
    tuple(config.nesting_dims),
    kind=pairs.objective,
    frozen=tuple(pairs.frozen),
    rngs=rngs,
    **{
      f'{name}_projection': projection if name in pairs.projections else None
      for name in towers.TOWERS
    },
  )


def text_settings(
  config: ConfigDict, workdir: Workdir | None = None, pad_id: int = 0
) -> text_models.Settings:
  """The settings of the text encoder; without a workdir as `init_from` has."""
  pairs = config.pairs
  if pairs.text == 'pretrained':
    found = start.text_settings(config, workdir)
    return dataclasses.replace(found, normalise=False)
  variant, pooling = _TEXTS[pairs.text]
  changes = {
    'vocabulary_size': pairs.vocabulary_size,
    'max_tokens': pairs.max_tokens,
  }
  if pairs.text_width:
    changes['width'] = pairs.text_width
  if pairs.text != 'static':
    if pairs.text_width:
      changes['hidden'] = 4 * pairs.text_width
    if pairs.text_depth:
      changes['depth'] = pairs.text_depth
    if pairs.text_heads:
      changes['num_heads'] = pairs.text_heads
  if pairs.text == 'siglip':
    changes['read_padding'] = pad_id
  return text_models.Settings(
    dataclasses.replace(variant, **changes), pooling, normalise=False
  )


def widths(config: ConfigDict) -> dict[str, int]:
  """The width of each tower's embedding, behind its projection if it has one.

  Raises ValueError for an unknown encoder.
  """
  settings = text_settings(config)
  own = {
    'image': models.num_features(config.encoder),
    'text': (
      settings.projections[-1].width
      if settings.projections
      else settings.backbone.width
    ),
  }
  return {
    name: config.pairs.width if name in config.pairs.projections else width
    for name, width in own.items()
  }


def trainable(config: ConfigDict, model: towers.Towers) -> tuple[str, ...]:
  """The patterns of what trains: all but the towers that are frozen."""
  if config.trainable or not config.pairs.frozen:
    return tuple(config.trainable)
  parts: Sequence[str] = [*nnx.to_pure_dict(nnx.state(model, nnx.Param))]
  return tuple(name for name in parts if name not in config.pairs.frozen)
