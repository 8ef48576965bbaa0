"""The workdir: the files of a run, and which stages are finished.

config.json                  the resolved config
stages.json                  the marks of finished stages
checkpoints/<step>/          orbax
metrics.jsonl                one JSON object a line
embeddings/, predictions/, evaluation/, retrieval/, analysis/, report/, export/
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
from typing import Any, NamedTuple

from mrl_jax.workdir import config_record
from mrl_jax.workdir import files
from mrl_jax.workdir import lock
from mrl_jax.workdir.config_record import DATASET_FIELDS

# One lock for training and one for all other stages, so that a checkpoint can
# be evaluated while training goes on.
_LOCKS = {'train': '.lock', 'stages': '.stages.lock'}


class Checkpoint(NamedTuple):
  """A checkpoint, as marks and results name it; step 0 means none.

  `identity` changes with any bit of its arrays: the checkpoints of two training
  runs may both be of step 8.
  """

  step: int
  identity: str

  def as_json(self) -> dict[str, Any]:
    """The fields by which a result names its checkpoint."""
    return {'step': self.step, 'checkpoint': self.identity}

  def has_made(self, record: Mapping[str, Any]) -> bool:
    """Whether a result was made from this checkpoint.

    Results from before 2026-11-28 have a step only.
    """
    expected = self.as_json()
    return {**expected, **record}.items() >= expected.items()


class Workdir:
  """Paths, the config of record, and the marks of finished stages."""

  def __init__(
    self,
    path: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    free: Collection[str] = (),
    later: Mapping[str, Any] | None = None,
    read_dataset: Callable[['Workdir'], str] | None = None,
  ):
    """Opens a workdir, which need not exist yet, and writes nothing.

    Training does not depend on the fields `free` of the config; those of
    `later` were added to it later, and have the values old runs implied.
    `read_dataset` returns a string that changes with the dataset's files, for
    `hash_of`. Raises ValueError if `path` is a file or cannot be written, or
    the model there was trained with another config.
    """
    self.path = files.local(path, 'workdir').absolute()
    _check_writable(self.path)
    self.checkpoints = self.path / 'checkpoints'
    self.metrics = self.path / 'metrics.jsonl'
    self.profile = self.path / 'profile'
    self.embeddings = self.path / 'embeddings'
    self.predictions = self.path / 'predictions'
    self.evaluation = self.path / 'evaluation'
    self.analysis = self.path / 'analysis'
    self.retrieval = self.path / 'retrieval'
    self.report = self.path / 'report'
    self.export = self.path / 'export'
    self.config = json.loads(json.dumps(config))
    self._config_path = self.path / 'config.json'
    self._stages_path = self.path / 'stages.json'
    self._free = frozenset(free)
    self._later = later or {}
    self._read_dataset = read_dataset
    recorded = self._recorded()
    # Without a checkpoint nothing depends on the config: the run failed early.
    if recorded and self.latest_step():
      self.check_config(recorded, self._config_path)

  def _recorded(self) -> dict[str, Any]:
    return files.read_json(self._config_path, missing={})

  def check_config(
    self, recorded: Mapping[str, Any], where: str | os.PathLike
  ) -> None:
    """Raises ValueError, naming them, if `recorded` has other settings."""
    recorded = config_record.completed(recorded, self._later)
    differences = config_record.differences(recorded, self.config, self._free)
    if differences:
      raise ValueError(
        f'{where} was made with another config: {"; ".join(differences)}. '
        'Give the same, or another --workdir'
      )

  @property
  def is_import(self) -> bool:
    """Whether its model was imported from PyTorch, without a config."""
    return config_record.is_import(self._recorded())

  def write_config(self) -> None:
    files.write_json(self._config_path, self.config)

  def compare_dataset_by_name(self) -> None:
    """Treats the dataset's fields as any other from now on.

    Call it for a model without a record of the data it was trained on.
    """
    self._free -= DATASET_FIELDS

  @functools.cached_property
  def _dataset(self) -> str:
    return self._read_dataset(self) if self._read_dataset else ''

  def hash_of(self, names: Collection[str] | None = None) -> str:
    """A hash of these fields, or those training depends on: 12 hex digits.

    The dataset's fields say where it is; they enter as a digest of the files
    there, unless the model has no record of its dataset.
    """
    reads_dataset = False
    if names is None:
      names = self.config.keys() - self._free
    elif DATASET_FIELDS & {*names}:
      names = {*names} - DATASET_FIELDS
      reads_dataset = self._free >= DATASET_FIELDS
    # A later field at its old value does not change the hash of an old run.
    chosen = {
      name: config_record.without(self.config.get(name), self._later.get(name))
      for name in sorted(names)
      if name not in self._later or self.config.get(name) != self._later[name]
    }
    if reads_dataset:
      chosen['dataset'] = self._dataset
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]

  def marks(self) -> dict[str, dict[str, Any]]:
    """The marks of all finished stages, by stage."""
    schema = dict[str, dict[str, Any]]
    return files.read_json(self._stages_path, schema, missing={})

  def mark(
    self, stage: str, fingerprint: str, seconds: float, checkpoint: Checkpoint
  ) -> None:
    """Records that a stage is finished, and how many seconds it took.

    `fingerprint` changes with everything that its results depend on;
    `checkpoint` is the one that it read, or the last one of a training.
    """
    with lock.exclusive(self._stages_path):
      marks = self.marks()
      marks[stage] = {
        'fingerprint': fingerprint,
        **checkpoint.as_json(),
        'seconds': round(seconds, 3),
        'finished': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
      }
      files.write_json(self._stages_path, marks)

  def stages_after(self, step: int) -> list[str]:
    """The stages that finished with a checkpoint of a later step."""
    marks = self.marks()
    return [name for name in marks if marks[name].get('step', 0) > step]

  def unmark(self, *stages: str) -> None:
    """Removes the marks of these stages, where there are any."""
    if self.marks().keys().isdisjoint(stages):
      return
    with lock.exclusive(self._stages_path):
      marks = self.marks()
      kept = {name: marks[name] for name in marks if name not in stages}
      files.write_json(self._stages_path, kept)

  def latest_step(self) -> int:
    """The step of the latest checkpoint; 0 if there is none."""
    if not self.checkpoints.is_dir():
      return 0
    entries = self.checkpoints.iterdir()
    names = (entry.name for entry in entries if entry.is_dir())
    return max((int(name) for name in names if name.isdecimal()), default=0)

  def checkpoint(self, step: int) -> Checkpoint:
    """The checkpoint of a step, with its identity."""
    folder = self.checkpoints / str(step)
    saved = files.read_json(folder / 'fingerprints' / 'metadata', missing={})
    # The saved config may differ in fields that change no number, and a score
    # may be measured later.
    arrays = {
      name: x for name, x in saved.items() if name not in ('config', 'metrics')
    }
    if not arrays:
      # Checkpoints from before 2026-11-25 have no fingerprints; this file holds
      # the time of saving.
      path = folder / '_CHECKPOINT_METADATA'
      arrays = files.read_json(path, missing={})
    text = json.dumps(arrays, sort_keys=True)
    return Checkpoint(step, hashlib.sha256(text.encode()).hexdigest()[:16])

  @contextlib.contextmanager
  def locked(self, stage: str = 'train') -> Iterator[None]:
    """Keeps the stages of other processes out while this one writes.

    Training excludes training, any other stage excludes all but training. The
    lock ends with the process, however that ends.

    Raises ValueError, naming the process, if another one holds the lock.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    doing = 'training' if stage == 'train' else 'at work'
    refusal = f'workdir {self.path}: another process is {doing} in it'
    path = self.path / _LOCKS.get(stage, _LOCKS['stages'])
    with lock.held(path, stage, refusal):
      yield


def _check_writable(path: pathlib.Path) -> None:
  if '[' in str(path):
    # Orbax takes it for a pattern, and writes what it cannot read.
    raise ValueError(f'workdir {path}: must have no [ in its path')
  if (path.exists() or path.is_symlink()) and not path.is_dir():
    raise ValueError(f'workdir {path} is a file, or a link to nothing')
  existing = path
  while not existing.exists():
    existing = existing.parent
  if not existing.is_dir():
    raise ValueError(f'workdir {path}: {existing} is a file')
  if not os.access(existing, os.W_OK | os.X_OK):
    raise ValueError(f'workdir {path}: {existing} is not writable')
