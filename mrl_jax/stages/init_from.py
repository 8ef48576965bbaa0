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
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import files


def initialise(
  config: ConfigDict,
  model: models.Classifier,
  class_names: Sequence[str] | None = None,
) -> None:
  """Copies the parameters that `config.init_from` names into a fresh model.

  They come from a workdir, or from a PyTorch file. The head is copied if kind,
  nesting dims and classes are the same, and else stays fresh.

  Args:
    config: the config of the new run.
    model: the model, changed in place.
    class_names: the model's classes, by which those of a run's head are found.
      None, or a run without a record of its own: the order is the same.

  Raises:
    ValueError: there is no checkpoint, or its encoder is another.
  """
  if not config.init_from:
    return
  if load.is_file(config.init_from):
    where, has_head = _from_file(config, model)
  else:
    where, has_head = _from_run(config, model, class_names)
  heads = 'its heads' if has_head else 'fresh heads'
  terminal.say(f'train: starts from {where}, with {heads}')


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
  """The record of the data that the run in `config.init_from` trained on.

  None if there is no such run, or it has no record.
  """
  if not config.init_from or load.is_file(config.init_from):
    return None
  directory, step = _find(config.init_from)
  with Checkpoints(directory) as checkpoints:
    step = checkpoints.latest_step if step is None else step
    return _read_provenance(checkpoints, directory, step)


def _read_provenance(checkpoints, directory, step) -> Provenance | None:
  content = checkpoints.read_dataset(step)
  where = str(directory / str(step))
  return None if content is None else provenance.parse(content, where)


def _from_run(
  config: ConfigDict,
  model: models.Classifier,
  class_names: Sequence[str] | None,
) -> tuple[str, bool]:
  directory, step = _find(config.init_from)
  with Checkpoints(directory) as checkpoints:
    step = checkpoints.latest_step if step is None else step
    recorded = checkpoints.read_config(step)
    dataset = _read_provenance(checkpoints, directory, step)
    restored = checkpoints.restore_model(checkpoints.model_shapes(step), step)
  encoder, head = (_part(restored, name) for name in ('encoder', 'head'))
  where = f'{directory / str(step)} ({recorded["encoder"]})'
  _check_shapes(_shapes(encoder), _shapes(_state(model.encoder)), where)
  _update(model.encoder, encoder)
  has_head = (
    recorded['head'] == model.head.kind
    and tuple(recorded['nesting_dims']) == model.head.nesting_dims
    and _shapes(head) == _shapes(_state(model.head))
  )
  if has_head and dataset and class_names is not None:
    order = provenance.labels(class_names, dataset.class_names)
    if -1 in order:
      return f'{where}, whose head is of other classes', False
    head = jax.tree.map(lambda x: x[..., np.array(order)], head)
  if has_head:
    _update(model.head, head)
  return where, has_head


def _find(path: str) -> tuple[pathlib.Path, int | None]:
  """The directory of checkpoints, and the step if `path` names one."""
  given = pathlib.Path(path).expanduser().absolute()
  if given.name.isdecimal() and (given / 'model').is_dir():
    return given.parent, int(given.name)
  for directory in (given / 'checkpoints', given):
    if directory.is_dir() and any(
      entry.name.isdecimal() for entry in directory.iterdir()
    ):
      return directory, None
  raise ValueError(
    f'init_from {path!r}: must be a workdir with checkpoints, one of them, or '
    f'a file of PyTorch ({", ".join(load.SUFFIXES)})'
  )


def _state(module: nnx.Module) -> dict[str, Any]:
  kinds = {'params': nnx.Param, 'batch_stats': nnx.BatchStat}
  return {
    name: nnx.to_pure_dict(nnx.state(module, kind))
    for name, kind in kinds.items()
  }


def _part(restored: Mapping[str, Any], name: str) -> dict[str, Any]:
  return {kind: tree.get(name, {}) for kind, tree in restored.items()}


def _dotted(path: tuple) -> str:
  # The index of a list is text in a checkpoint, but a number in a model.
  return jax.tree_util.keystr(path, simple=True, separator='.')


def _named(tree: Any) -> dict[str, jax.Array]:
  return {_dotted(path): x for path, x in jax.tree.leaves_with_path(tree)}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {name: x.shape for name, x in _named(tree).items()}


def _check_shapes(there, here, where: str) -> None:
  differing = sorted(
    name for name in there | here if there.get(name) != here.get(name)
  )
  if differing:
    name = differing[0]
    raise ValueError(
      f'init_from {where}: another encoder than this, in {len(differing)} '
      f'arrays: {name} is {there.get(name)} there and {here.get(name)} here'
    )


def _update(module: nnx.Module, tree: Mapping[str, Any]) -> None:
  named = _named(tree)
  fill = lambda path, _: named[_dotted(path)]
  for part in jax.tree.map_with_path(fill, _state(module)).values():
    nnx.update(module, part)
