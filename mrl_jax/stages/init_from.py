"""Initialises a model from an earlier run, or from a PyTorch file."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import models
from mrl_jax import terminal
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources.provenance import Provenance
from mrl_jax.interop.pytorch import load
from mrl_jax.models import geometry
from mrl_jax.training import fingerprint
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.checkpoint_faults import describe
from mrl_jax.training.checkpoint_faults import misfit
from mrl_jax.training.saved_step import SavedStep
from mrl_jax.training.state import arrays_of
from mrl_jax.workdir import files


def initialise(
  config: ConfigDict,
  model: models.Classifier,
  class_names: Sequence[str] | None = None,
) -> None:
  """Copies the parameters that `config.init_from` names into a fresh model.

  They come from a workdir, or from a PyTorch file. The head is copied if kind,
  nesting dims and classes are the same, and else stays fresh. Its classes are
  found by `class_names`, those of the model; without them, or without a record
  in that run, their order is the same. Raises ValueError if there is no
  checkpoint, or its encoder is another.
  """
  if not config.init_from:
    return
  if load.is_file(config.init_from):
    where, has_head = _from_file(config, model)
  else:
    where, has_head = _from_run(config, model, class_names)
  heads = ', with its heads' if has_head else ', with fresh heads'
  heads = heads if model.head is not None else ''
  terminal.say(f'train: starts from {where}{heads}')


def _from_file(
  config: ConfigDict, model: models.Classifier
) -> tuple[str, bool]:
  path = files.local(config.init_from, 'init_from')
  options = geometry.options(config)
  form, has_head = load.load(
    path,
    model,
    encoder=config.encoder,
    prefix=config.init_prefix,
    options=options,
  )
  variant = geometry.changed(models.ENCODERS[config.encoder], **options)
  for line in (*form.remarks(variant), *form.differing(config)):
    terminal.say(f'train: {path}: {line}')
  return f'{path} ({form})', has_head


def read_provenance(config: ConfigDict) -> Provenance | None:
  """The record of the data of the run in `init_from`; None without one."""
  if not config.init_from or load.is_file(config.init_from):
    return None
  return read_record(SavedStep(*find_run(config.init_from)))


def read_record(saved: SavedStep) -> Provenance | None:
  """A checkpoint's record of its training data; None without one."""
  content = saved.read('dataset')
  where = f'checkpoint {saved.folder}'
  return None if content is None else provenance.parse(content, where)


def _from_run(
  config: ConfigDict,
  model: models.Classifier,
  class_names: Sequence[str] | None,
) -> tuple[str, bool]:
  directory, step = find_run(config.init_from)
  saved = SavedStep(directory, step)
  recorded, dataset = saved.read('config'), read_record(saved)
  with Checkpoints(directory) as checkpoints:
    restored = checkpoints.restore_model(checkpoints.model_shapes(step), step)
  encoder, head = (
    {kind: tree.get(name, {}) for kind, tree in restored.items()}
    for name in ('encoder', 'head')
  )
  where = f'{saved.folder} ({recorded["encoder"]})'
  if line := misfit(describe(encoder), describe(arrays_of(model.encoder))):
    raise ValueError(f'init_from {where}: another encoder than this: {line}')
  update(model.encoder, encoder)
  has_head = (
    model.head is not None
    and recorded['head'] == model.head.kind
    and tuple(recorded['nesting_dims']) == model.head.nesting_dims
    and describe(head) == describe(arrays_of(model.head))
  )
  if has_head and dataset and class_names is not None:
    order = provenance.labels(class_names, dataset.class_names)
    if -1 in order:
      return f'{where}, whose head is of other classes', False
    head = jax.tree.map(lambda x: x[..., np.array(order)], head)
  if has_head:
    update(model.head, head)
  return where, has_head


def find_run(path: str) -> tuple[pathlib.Path, int]:
  """The directory of checkpoints, and the step in `path`, else the latest."""
  given = pathlib.Path(path).expanduser().absolute()
  if given.name.isdecimal() and (given / 'model').is_dir():
    return given.parent, int(given.name)
  for directory in (given / 'checkpoints', given):
    steps = [int(x.name) for x in directory.glob('*') if x.name.isdecimal()]
    if steps:
      return directory, max(steps)
  raise ValueError(
    f'init_from {path!r}: must be a workdir with checkpoints, one of them, or '
    f'a file of PyTorch ({", ".join(load.SUFFIXES)})'
  )


def update(module: nnx.Module, tree: Mapping[str, Any]) -> None:
  """Gives a module the arrays of a tree of `params` and `batch_stats`."""
  there, here = fingerprint.by_path(tree), arrays_of(module)
  leaves = [there[name] for name in fingerprint.by_path(here)]
  for part in jax.tree.unflatten(jax.tree.structure(here), leaves).values():
    nnx.update(module, part)
