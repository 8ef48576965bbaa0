"""The meaning of config fields that must be read together."""

import os
import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax import terminal
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.data.sources.vectors import open_vectors
from mrl_jax.models import geometry
from mrl_jax.workdir import config_record
from mrl_jax.workdir import files
from mrl_jax.workdir.predictions import KINDS

# Fields that change no number: a run can be resumed with other values.
FREE_FIELDS = frozenset(
  {
    'name',
    'modes',
    'save',
    'data_dir',
    'loss_kernel',
    'remat',
    'profile',
    'mesh',
    'fsdp',
    'num_threads',
    'max_damaged',
    'log_every_steps',
    'eval_every_epochs',
    'eval_batch_size',
    'checkpoint_every_epochs',
    'keep_checkpoints',
  }
)


def is_text(config: ConfigDict) -> bool:
  """Whether the config is of texts: those alone have the field `text`."""
  return config.get('text') is not None


def is_pairs(config: ConfigDict) -> bool:
  """Whether it is of pictures with captions: those have the field `pairs`."""
  return config.get('pairs') is not None


def has_texts(config: ConfigDict) -> bool:
  """Whether the examples are texts, or have texts."""
  return is_text(config) or is_pairs(config)


def later_fields(dataset: str) -> dict[str, Any]:
  """Fields added later, with the value old runs implied, so they can resume."""
  is_folder = dataset.startswith(FOLDER_PREFIX)
  return {
    'slimmable': False,
    # Images of folders were once read as they are stored, like those of TFDS.
    'as_seen': 'no' if is_folder else 'auto',
    'init_prefix': '',
    'batch_norm_group': 0,
    'resize_on': 'auto',
    **geometry.OPTIONS,
    'text': {'dropout': -1.0, 'teacher': '', 'similarity_share': 0.5},
  }


def measured_dims(config: ConfigDict) -> tuple[int, ...]:
  """The widths that are evaluated: nesting dims and `eval_dims`, increasing."""
  return tuple(sorted({*config.nesting_dims, *config.eval_dims}))


def classifier_dims(config: ConfigDict) -> tuple[int, ...]:
  """The measured dims that have a classifier."""
  if config.head == 'none':
    return ()
  if config.head == 'mrl_e':
    return measured_dims(config)
  return tuple(config.nesting_dims)


def saved_kinds(config: ConfigDict) -> tuple[str, ...]:
  """The predictions that evaluate saves; all kinds if analyze is to run."""
  wanted = KINDS if 'analyze' in config.modes else config.save
  return tuple(kind for kind in KINDS if kind in wanted)


def num_features(config: ConfigDict) -> int:
  """Width of the encoder's embedding or of the vectors; or ValueError."""
  if not config.embeddings:
    return models.num_features(config.encoder)
  return open_vectors(
    config.embeddings,
    config.train_split,
    labels=config.labels,
    train_split=config.train_split,
  ).width


def resolve(config: ConfigDict) -> ConfigDict:
  """The config with its nesting dims, if it leaves them to the encoder."""
  if config.nesting_dims:
    return config
  config = config.copy_and_resolve_references()
  width = num_features(config)
  if is_pairs(config) and 'image' in config.pairs.projections:
    width = config.pairs.width
  with config.unlocked():
    config.nesting_dims = nesting.doubling(8, width)
  return config


def as_begun(config: ConfigDict, path: str | os.PathLike) -> ConfigDict:
  """The config, with `as_seen` as in the workdir at `path` if it is auto.

  A run on a folder begun before the field existed can go on that way.
  """
  path = pathlib.Path(path).expanduser()
  if config.as_seen != 'auto' or not (path / 'checkpoints').is_dir():
    return config
  recorded = files.read_json(path / 'config.json', missing={})
  completed = config_record.completed(recorded, later_fields(config.dataset))
  if completed['as_seen'] != 'no':
    return config
  terminal.say(
    f'as_seen: no, as the run in {path} was begun: the EXIF orientation of '
    'images is not applied; another workdir begins with it'
  )
  config = config.copy_and_resolve_references()
  config.as_seen = 'no'
  return config


def read(text: str) -> ConfigDict:
  """Reads the config in a Python file, named as `path` or `path:argument`."""
  path, colon, argument = text.partition(':')
  if not pathlib.Path(path).is_file():
    raise ValueError(f'config {text!r}: there is no such file')
  get_config = runpy.run_path(path)['get_config']
  return get_config(argument) if colon else get_config()
