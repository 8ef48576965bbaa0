"""The stages of an experiment: which there are, and when each is to run."""

from collections.abc import Sequence
import contextlib
import json
import os
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import eval_sets
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.models import geometry
from mrl_jax.stages import build
from mrl_jax.stages import check
from mrl_jax.stages import preflight
from mrl_jax.stages import recorded
from mrl_jax.stages.stage import STAGES
from mrl_jax.training import sharding
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

# Fields whose value changes no number: a run may go on with another.
_FREE_FIELDS = frozenset(
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


def _later_fields(dataset: str) -> dict[str, Any]:
  """Fields added later, with the value old runs implied: such a run goes on."""
  is_folder = dataset.startswith(FOLDER_PREFIX)
  # Images of folders were read as they are stored, like those of TFDS.
  return {
    'slimmable': False,
    'as_seen': 'no' if is_folder else 'auto',
    'init_prefix': '',
    **geometry.OPTIONS,
  }


# Stages that need no classifier.
_WITHOUT_HEAD = ('embed', 'evaluate', 'retrieve')


def run(
  config: ConfigDict, path: str | os.PathLike, modes: Sequence[str]
) -> None:
  """Runs the stages named by `modes` that are not finished in the workdir.

  Raises ValueError, before anything is written, for an unknown stage or a
  config that cannot work.
  """
  for mode in modes:
    if mode not in STAGES:
      raise ValueError(f'stage {mode!r}: must be one of {tuple(STAGES)}')
  config = _as_begun(build.resolve(config), path)
  check.check(config)
  workdir = open_workdir(config, path)
  _check_outside(config, workdir)
  _check_modes(config, modes, workdir)
  _use_compilation_cache()
  recorded.warn_if_unknown(config, workdir)
  # Processes that differ in these would wait for each other in vain.
  parts = (workdir.config, [*modes], workdir.marks(), workdir.latest_step())
  if not sharding.agreed(json.dumps(parts)):
    raise ValueError(
      'the processes differ: give all the same config and modes, and the same '
      f'workdir on a shared disk, here {workdir.path}'
    )
  if 'train' in modes and not is_finished('train', config, workdir):
    preflight.check(config, workdir, modes)
  done, checkpoint = set(), None
  for mode in modes:
    if mode in done:
      continue
    # All stages of a command read the same one, also beside a training that
    # goes on meanwhile.
    checkpoint = checkpoint or _choose(config, workdir)
    if is_finished(mode, config, workdir, checkpoint):
      terminal.say(f'{mode}: already finished in {workdir.path}, skipped')
      continue
    _run_stage(mode, config, workdir, checkpoint, done)
    if mode == 'train':
      checkpoint = None


def _choose(config: ConfigDict, workdir: Workdir) -> Checkpoint:
  checkpoint = build.chosen(config, workdir)
  if not sharding.agreed(json.dumps(checkpoint)):
    raise ValueError(
      f'the processes found different checkpoints in {workdir.checkpoints}, '
      'where a training goes on: start again'
    )
  return checkpoint


def _check_modes(
  config: ConfigDict, modes: Sequence[str], workdir: Workdir
) -> None:
  if workdir.is_import and 'train' in modes:
    raise ValueError(
      f'stage train: {workdir.path} was imported, and has no state of a '
      f'training: train in another with --config.init_from={workdir.path}'
    )
  for mode in modes:
    if config.head == 'none' and mode not in _WITHOUT_HEAD:
      raise ValueError(
        f'stage {mode!r}: needs a classifier, and the head is none; must be '
        f'one of {_WITHOUT_HEAD}'
      )


def open_workdir(config: ConfigDict, path: str | os.PathLike) -> Workdir:
  """The workdir at `path`, which need not exist; writes nothing.

  Raises ValueError if what lies there was trained with another config.
  """
  free = _FREE_FIELDS.union(*(stage.fields for stage in STAGES.values()))
  workdir = Workdir(
    path,
    config.to_dict(),
    free=free,
    later=_later_fields(config.dataset),
    read_dataset=lambda workdir: recorded.digest(config, workdir),
  )
  if step := workdir.latest_step():
    with Checkpoints(workdir.checkpoints) as checkpoints:
      trained = checkpoints.read_config(step)
      if checkpoints.read_dataset(step) is None:
        workdir.compare_dataset_by_name()
    workdir.check_config(trained, workdir.checkpoints / str(step))
  return workdir


def open_recorded(path: str | os.PathLike) -> tuple[ConfigDict, Workdir]:
  """The config that a workdir was trained with, and the workdir.

  Raises ValueError if there is no trained model.
  """
  path = files.local(path, 'workdir')
  trained = files.read_json(path / 'config.json', missing={})
  if not trained:
    raise ValueError(f'{path} is no workdir: there is no config.json in it')
  later = _later_fields(trained.get('dataset', ''))
  config = ConfigDict({**later, **trained})
  check.types(config)
  workdir = open_workdir(config, path)
  if not workdir.latest_step():
    raise ValueError(f'{path} has no checkpoint: run --mode=train first')
  return config, workdir


def _as_begun(config: ConfigDict, path: str | os.PathLike) -> ConfigDict:
  """The config; `as_seen` is that of the run in the workdir where it is auto.

  Else a run on a folder begun before there was the field could not go on.
  """
  path = pathlib.Path(path).expanduser()
  recorded = files.read_json(path / 'config.json', missing={})
  if config.as_seen != 'auto' or not (path / 'checkpoints').is_dir():
    return config
  recorded = {**_later_fields(config.dataset), **recorded}
  if recorded['as_seen'] != 'no':
    return config
  terminal.say(
    f'as_seen: no, as the run in {path} was begun: the EXIF orientation of '
    'images is not applied; another workdir begins with it'
  )
  config = config.copy_and_resolve_references()
  config.as_seen = 'no'
  return config


def _check_outside(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses a workdir in the images, which it would become a class of."""
  entries = config.eval_sets
  folders = [eval_sets.parse(entry).dataset for entry in entries]
  if not config.embeddings:
    folders.append(config.dataset)
  splits = (config.train_split, config.eval_split)
  for dataset in folders:
    for folder in datasets.class_roots(dataset, splits):
      inside = os.path.join(os.path.realpath(folder), '')
      if os.path.join(os.path.realpath(workdir.path), '').startswith(inside):
        raise ValueError(
          f'workdir {workdir.path} lies in the images of {dataset}, where it '
          'would be taken for a class: give a --workdir outside of it'
        )


def is_finished(
  name: str,
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint | None = None,
) -> bool:
  """Whether the stage is done, for this config and checkpoint.

  `checkpoint` is the one that the stage would read; None: what the config says
  now. A training is done if it has ended with the latest checkpoint.
  """
  if name == 'train':
    checkpoint = workdir.checkpoint(workdir.latest_step())
  elif checkpoint is None:
    checkpoint = build.chosen(config, workdir)
  mark = workdir.marks().get(name, {})
  expected = _fingerprint(name, workdir, checkpoint)
  # Before 2026-11-28 marks named a checkpoint by its step alone. That will do
  # for a training, which cannot always be done again: an import has no
  # optimizer.
  if name == 'train' and 'checkpoint' not in mark:
    expected = json.dumps([*json.loads(expected)[:-1], checkpoint.step])
  return mark.get('fingerprint') == expected and all(
    path.exists() for path in STAGES[name].outputs(config, workdir)
  )


def mark_finished(
  name: str,
  workdir: Workdir,
  seconds: float,
  checkpoint: Checkpoint | None = None,
) -> None:
  """Records that the stage is done.

  `checkpoint` is the one it has read; None: the latest, with which a training
  has ended.
  """
  if checkpoint is None:
    checkpoint = workdir.checkpoint(workdir.latest_step())
  fingerprint = _fingerprint(name, workdir, checkpoint)
  workdir.mark(name, fingerprint, seconds, checkpoint)


def _run_stage(
  name: str,
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
  done: set[str],
) -> None:
  stage = STAGES[name]
  _check_needs(name, stage.needs, config, workdir, checkpoint)
  for other in stage.first:
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
      # Another process may have begun one of them before the lock.
      others = (*stage.needs, *stage.first)
      _check_needs(name, others, config, workdir, checkpoint)
      workdir.unmark(name)
      _remove_temporary(name, config, workdir)
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


def _check_needs(name, others, config, workdir, checkpoint) -> None:
  for other in others:
    if not is_finished(other, config, workdir, checkpoint):
      raise ValueError(
        f'{name} reads what {other} writes, which is not in {workdir.path} for '
        f'this config and checkpoint: run --mode={other} first'
      )


def _remove_temporary(name, config, workdir) -> None:
  """Removes what a killed run of the stage has left in its own folders."""
  folders = {path.parent for path in STAGES[name].outputs(config, workdir)}
  # In the workdir itself a training may be writing at the same time.
  for folder in folders - {workdir.path}:
    files.remove_temporary(folder)


def _fingerprint(name: str, workdir: Workdir, checkpoint: Checkpoint) -> str:
  """A string that changes with anything the stage's results depend on.

  That is the config, the checkpoint, and the marks of the stages it reads.
  """
  stage = STAGES[name]
  marks = workdir.marks()
  sources = [
    marks.get(other, {}).get('fingerprint')
    for other in (*stage.needs, *stage.first, *stage.shows)
  ]
  parts = (workdir.hash_of(), workdir.hash_of(stage.fields), sources)
  return json.dumps([*parts, list(checkpoint)])


def _use_compilation_cache() -> None:
  """Compiled programs outlive the process, unless JAX was told otherwise."""
  if jax.config.jax_compilation_cache_dir is None:
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    jax.config.update(
      'jax_compilation_cache_dir', os.path.join(cache, 'mrl_jax', 'xla')
    )
