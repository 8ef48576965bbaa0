"""The workdir: where the stages hand each other files, and what is done.

config.json                  the resolved config
stages.json                  which stages are finished, and of what
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

from mrl_jax.workdir import files
from mrl_jax.workdir import lock

# A lock for the training and one for all other stages, so that a checkpoint can
# be evaluated while the training goes on.
_LOCKS = {'train': '.lock', 'stages': '.stages.lock'}


class Checkpoint(NamedTuple):
  """A checkpoint, as marks and results name it; step 0: there is none.

  `identity` changes with any bit of its arrays: two trainings may both have a
  step 8.
  """

  step: int
  identity: str

  def as_json(self) -> dict[str, Any]:
    """What every result of a checkpoint says of it."""
    return {'step': self.step, 'checkpoint': self.identity}

  def has_made(self, record: Mapping[str, Any]) -> bool:
    """Whether a result is of this checkpoint.

    Results from before 2026-11-28 have a step only.
    """
    expected = self.as_json()
    return {**expected, **record}.items() >= expected.items()


# Fields in which an imported model leaves a choice.
_SIZES = frozenset({'image_size', 'eval_image_size', 'eval_resize'})
# Where the dataset is: a model that has a record of it is compared with that.
DATASET_FIELDS = frozenset(['dataset', 'embeddings', 'labels'])


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
    """Looks, and writes nothing.

    Args:
      path: need not exist yet.
      config: the resolved config, as plain JSON types.
      free: the fields that training does not depend on.
      later: the fields that runs begun long ago lack, at the values by which
        they were trained.
      read_dataset: gives a text that changes with the files of the dataset,
        for `hash_of`.

    Raises:
      ValueError: `path` is a file or cannot be written, or the config there
        was trained with other settings.
    """
    self.path = files.local(path, 'workdir').absolute()
    self.config = json.loads(json.dumps(config))
    self._free = frozenset(free)
    self._later = later or {}
    self._read_dataset = read_dataset
    _check_writable(self.path)
    config_path = self.path / 'config.json'
    recorded = files.read_json(config_path, missing={})
    # Without a checkpoint nothing hangs on it: a run that failed at once.
    if recorded and self.latest_step():
      self.check_config(recorded, config_path)

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.path / 'checkpoints'

  @property
  def metrics(self) -> pathlib.Path:
    return self.path / 'metrics.jsonl'

  @property
  def profile(self) -> pathlib.Path:
    return self.path / 'profile'

  @property
  def embeddings(self) -> pathlib.Path:
    return self.path / 'embeddings'

  @property
  def predictions(self) -> pathlib.Path:
    return self.path / 'predictions'

  @property
  def evaluation(self) -> pathlib.Path:
    return self.path / 'evaluation'

  @property
  def analysis(self) -> pathlib.Path:
    return self.path / 'analysis'

  @property
  def retrieval(self) -> pathlib.Path:
    return self.path / 'retrieval'

  @property
  def report(self) -> pathlib.Path:
    return self.path / 'report'

  @property
  def export(self) -> pathlib.Path:
    return self.path / 'export'

  def check_config(
    self, recorded: Mapping[str, Any], where: str | os.PathLike
  ) -> None:
    """Raises ValueError if `recorded` was trained with other settings.

    The line names each field that differs, with both values.
    """
    recorded = {**self._later, **recorded}
    names = self.config.keys() | recorded.keys()
    if is_import(recorded):
      # The model and its pixels are all there is to agree on.
      names = recorded.keys() - _SIZES
    pairs = [
      (name, recorded.get(name), self.config.get(name))
      for name in sorted(names - self._free)
    ]
    differences = [
      f'{name} is {there!r} there and {here!r} now'
      for name, there, here in pairs
      if _comparable(name, there) != _comparable(name, here)
    ]
    if differences:
      raise ValueError(
        f'{where} was made with another config: {"; ".join(differences)}. '
        'Give the same, or another --workdir'
      )

  @property
  def is_import(self) -> bool:
    """Whether it holds a model of PyTorch, imported without a config."""
    recorded = files.read_json(self.path / 'config.json', missing={})
    return bool(recorded) and is_import(recorded)

  def write_config(self) -> None:
    files.write_json(self.path / 'config.json', self.config)

  def compare_dataset_by_name(self) -> None:
    """Treats the dataset's fields as any other, from now on.

    So it must be where the model has no record of what it was trained on.
    """
    self._free -= DATASET_FIELDS

  @functools.cached_property
  def _dataset(self) -> str:
    return self._read_dataset(self) if self._read_dataset else ''

  def hash_of(self, names: Collection[str] | None = None) -> str:
    """A hash of these fields, or those training depends on: 12 hex digits.

    Of the dataset's fields, which say where it is, there is a digest of what is
    there instead; a model without a record has them among its other fields.
    """
    reads_dataset = False
    if names is None:
      names = self.config.keys() - self._free
    elif DATASET_FIELDS & {*names}:
      names = {*names} - DATASET_FIELDS
      reads_dataset = self._free >= DATASET_FIELDS
    # Fields at the value of before they were there change no hash.
    chosen = {
      name: self.config.get(name)
      for name in sorted(names)
      if name not in self._later or self.config[name] != self._later[name]
    }
    if reads_dataset:
      chosen['dataset'] = self._dataset
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]

  @property
  def _stages(self) -> pathlib.Path:
    return self.path / 'stages.json'

  def marks(self) -> dict[str, dict[str, Any]]:
    """The marks of all finished stages, by stage."""
    schema = dict[str, dict[str, Any]]
    return files.read_json(self._stages, schema, missing={})

  def mark(
    self,
    stage: str,
    fingerprint: str,
    seconds: float,
    checkpoint: Checkpoint,
  ) -> None:
    """Records that a stage is finished.

    Args:
      stage: its name.
      fingerprint: of everything that its results depend on.
      seconds: that it took.
      checkpoint: the one it has read; for a training, the one it ended with.
    """
    with lock.exclusive(self._stages):
      marks = self.marks()
      marks[stage] = {
        'fingerprint': fingerprint,
        **checkpoint.as_json(),
        'seconds': round(seconds, 3),
        'finished': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
      }
      files.write_json(self._stages, marks)

  def stages_after(self, step: int) -> list[str]:
    """The stages that have finished with a checkpoint of a later step."""
    marks = self.marks()
    return [name for name in marks if marks[name].get('step', 0) > step]

  def unmark(self, *stages: str) -> None:
    """Removes the marks of these stages, which need not have one."""
    if self.marks().keys().isdisjoint(stages):
      return
    with lock.exclusive(self._stages):
      marks = self.marks()
      kept = {name: marks[name] for name in marks if name not in stages}
      files.write_json(self._stages, kept)

  def latest_step(self) -> int:
    """Of the checkpoints; 0 if there is none."""
    if not self.checkpoints.is_dir():
      return 0
    entries = self.checkpoints.iterdir()
    names = (entry.name for entry in entries if entry.is_dir())
    return max((int(name) for name in names if name.isdecimal()), default=0)

  def checkpoint(self, step: int) -> Checkpoint:
    """The checkpoint of a step, with its identity."""
    folder = self.checkpoints / str(step)
    saved = files.read_json(folder / 'fingerprints' / 'metadata', missing={})
    # The config in it may differ in fields that change no number, and a score
    # may be measured later.
    arrays = {
      name: x for name, x in saved.items() if name not in ('config', 'metrics')
    }
    if not arrays:
      # Checkpoints had none before 2026-11-25; this has the time of saving.
      path = folder / '_CHECKPOINT_METADATA'
      arrays = files.read_json(path, missing={})
    text = json.dumps(arrays, sort_keys=True)
    return Checkpoint(step, hashlib.sha256(text.encode()).hexdigest()[:16])

  @contextlib.contextmanager
  def locked(self, stage: str = 'train') -> Iterator[None]:
    """Keeps other processes' stages out, for as long as this one writes.

    A training excludes trainings, and every other stage all but trainings. The
    lock ends with the process, however that ends.

    Raises ValueError, naming the process, if another one holds the lock.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    doing = 'training' if stage == 'train' else 'at work'
    refusal = f'workdir {self.path}: another process is {doing} in it'
    path = self.path / _LOCKS.get(stage, _LOCKS['stages'])
    with lock.held(path, stage, refusal):
      yield


def is_import(config: Mapping[str, Any]) -> bool:
  """Whether it is of a model alone, which names its file and no dataset."""
  return 'init_from' in config and 'dataset' not in config


def _comparable(name: str, value: Any) -> Any:
  """A value, or the absolute path where it is the place of a dataset."""
  if name not in DATASET_FIELDS or not value:
    return value
  return os.path.abspath(os.path.expanduser(str(value).removeprefix('folder:')))


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
