"""Runs the stages of an experiment that are not finished."""

from collections.abc import Sequence
import contextlib
import functools
import json
import os
import time

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import eval_sets
from mrl_jax.stages import check
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import fields
from mrl_jax.stages import recorded
from mrl_jax.stages import trained as trained_lib
from mrl_jax.stages.finished import check_needs
from mrl_jax.stages.finished import is_finished
from mrl_jax.stages.finished import mark_finished
from mrl_jax.stages.pairs import inputs as pair_inputs
from mrl_jax.stages.stage import STAGES
from mrl_jax.stages.stage import TEXT_STAGES
from mrl_jax.stages.text import check as text_check
from mrl_jax.stages.text import inputs as text_inputs
from mrl_jax.training import sharding
from mrl_jax.training.saved_step import SavedStep
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import config_record
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

# Stages that need no classifier.
_WITHOUT_HEAD = ('embed', 'evaluate', 'retrieve')


def run(
  config: ConfigDict, path: str | os.PathLike, modes: Sequence[str]
) -> None:
  """Runs those stages of `modes` that are not finished in the workdir.

  Raises ValueError, before anything is written, for an unknown stage or a
  config that cannot work.
  """
  for mode in modes:
    if mode not in STAGES:
      raise ValueError(f'stage {mode!r}: must be one of {tuple(STAGES)}')
  config = config_lib.as_begun(config_lib.resolve(config), path)
  check.check(config)
  workdir = open_workdir(config, path)
  _check_outside(config, workdir)
  _check_modes(config, modes, workdir)
  _use_compilation_cache()
  recorded.warn_if_unknown(config, workdir)
  # Processes that differ in these would wait for each other forever.
  parts = (workdir.config, [*modes], workdir.marks(), workdir.latest_step())
  if not sharding.agreed(json.dumps(parts)):
    raise ValueError(
      'the processes differ: give all the same config and modes, and the same '
      f'workdir on a shared disk, here {workdir.path}'
    )
  if 'train' in modes and not is_finished('train', config, workdir):
    check.check_devices(config)
    check.check_files(config, workdir, modes)
  done, checkpoint = set(), None
  for mode in modes:
    if mode in done:
      continue
    # All stages of a command read the same checkpoint, even while a training
    # goes on in the workdir.
    checkpoint = checkpoint or trained_lib.chosen(config, workdir)
    if not sharding.agreed(json.dumps(checkpoint)):
      raise ValueError(
        f'the processes found different checkpoints in {workdir.checkpoints}, '
        'where a training goes on: start again'
      )
    if is_finished(mode, config, workdir, checkpoint):
      terminal.say(f'{mode}: already finished in {workdir.path}, skipped')
      continue
    _run_stage(mode, config, workdir, checkpoint, done)
    if mode == 'train':
      checkpoint = None


def _check_modes(
  config: ConfigDict, modes: Sequence[str], workdir: Workdir
) -> None:
  if workdir.is_import and 'train' in modes:
    raise ValueError(
      f'stage train: {workdir.path} was imported, and has no state of a '
      f'training: train in another with --config.init_from={workdir.path}'
    )
  if config_lib.has_texts(config):
    text_check.check_modes(modes, TEXT_STAGES)
    return
  for mode in modes:
    if config.head == 'none' and mode not in _WITHOUT_HEAD:
      raise ValueError(
        f'stage {mode!r}: needs a classifier, and the head is none; must be '
        f'one of {_WITHOUT_HEAD}'
      )


def open_workdir(config: ConfigDict, path: str | os.PathLike) -> Workdir:
  """Opens the workdir at `path`, which need not exist; writes nothing.

  Raises ValueError if the model there was trained with another config.
  """
  free = config_lib.FREE_FIELDS.union(
    *(stage.fields for stage in STAGES.values())
  )
  workdir = Workdir(
    path,
    config.to_dict(),
    free=free,
    later=config_lib.later_fields(config.dataset),
    read_dataset=functools.partial(_digest, config),
  )
  if step := workdir.latest_step():
    saved = SavedStep(workdir.checkpoints, step)
    if saved.read('dataset') is None:
      workdir.compare_dataset_by_name()
    workdir.check_config(saved.read('config'), saved.folder)
  return workdir


def _digest(config: ConfigDict, workdir: Workdir) -> str:
  """A digest of the files that the stages after training read."""
  if config_lib.is_pairs(config):
    return pair_inputs.digest(config)
  if config_lib.is_text(config):
    return text_inputs.digest(config)
  return recorded.digest(config, workdir)


def open_recorded(path: str | os.PathLike) -> tuple[ConfigDict, Workdir]:
  """Opens a workdir with its model's config; ValueError without a model."""
  path = files.local(path, 'workdir')
  trained = files.read_json(path / 'config.json', missing={})
  if not trained:
    raise ValueError(f'{path} is no workdir: there is no config.json in it')
  later = config_lib.later_fields(trained.get('dataset', ''))
  config = ConfigDict(config_record.completed(trained, later))
  fields.check_types(config)
  workdir = open_workdir(config, path)
  if not workdir.latest_step():
    raise ValueError(f'{path} has no checkpoint: run --mode=train first')
  return config, workdir


def _check_outside(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses a workdir among the images, where it would become a class."""
  if config_lib.has_texts(config):
    return
  folders = [eval_sets.parse(entry).dataset for entry in config.eval_sets]
  if not config.embeddings:
    folders.append(config.dataset)
  splits = (config.train_split, config.eval_split)
  for dataset in folders:
    for folder in datasets.class_roots(dataset, splits):
      if workdir.path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
          f'workdir {workdir.path} lies in the images of {dataset}, where it '
          'would be taken for a class: give a --workdir outside of it'
        )


def _run_stage(
  name: str,
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
  done: set[str],
) -> None:
  stage = STAGES[name]
  check_needs(name, stage.needs, config, workdir, checkpoint)
  for other in stage.runs_first(config):
    if not is_finished(other, config, workdir, checkpoint):
      terminal.say(f'{name}: needs the stage {other}, which runs first')
      _run_stage(other, config, workdir, checkpoint, done)
  if name != 'train' and not checkpoint.step:
    raise ValueError(
      f'{name} reads a checkpoint in {workdir.checkpoints}, where there is '
      'none: run --mode=train first'
    )
  with contextlib.ExitStack() as stack:
    if not jax.process_index():
      stack.enter_context(workdir.locked(name))
      # Another process may have begun one of them before the lock was taken.
      others = (*stage.needs, *stage.runs_first(config))
      check_needs(name, others, config, workdir, checkpoint)
      workdir.unmark(name)
      # A killed run leaves some. A training may write to the workdir itself.
      outputs = stage.outputs(config, workdir)
      for folder in {path.parent for path in outputs} - {workdir.path}:
        files.remove_temporary(folder)
    terminal.say(f'{name}: {config.name} in {workdir.path}')
    start = time.perf_counter()
    if not (stage.alone and jax.process_index()):
      stage.run(config, workdir, checkpoint)
    sharding.barrier(f'{name} ran')
    seconds = time.perf_counter() - start
    if not jax.process_index():
      read = None if name == 'train' else checkpoint
      mark_finished(name, workdir, seconds, read)
    sharding.barrier(f'{name} is marked')
  done.add(name)
  terminal.say(f'{name}: finished in {seconds:.1f} s')


def _use_compilation_cache() -> None:
  """Caches compiled programs on disk, unless JAX is configured to do so."""
  if jax.config.jax_compilation_cache_dir is None:
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    jax.config.update(
      'jax_compilation_cache_dir', os.path.join(cache, 'mrl_jax', 'xla')
    )
