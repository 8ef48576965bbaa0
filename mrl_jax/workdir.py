"""The workdir: where the stages hand each other files, and what is done.

config.json                  the resolved config
stages.json                  which stages are finished, and of what
checkpoints/<step>/          orbax
metrics.jsonl                one JSON object a line
embeddings/, retrieval/, report/
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import json
import os
import pathlib
import time
from typing import Any
import uuid

# Fields whose value changes no number: a run may go on with another.
FREE_FIELDS = frozenset(
  {
    'name',
    'modes',
    'data_dir',
    'num_devices',
    'num_threads',
    'max_damaged',
    'log_every_steps',
    'eval_batch_size',
    'eval_every_epochs',
    'checkpoint_every_epochs',
    'keep_checkpoints',
  }
)
# Fields that the stages after training read; changed, those run again.
STAGE_FIELDS = {
  'train': frozenset(),
  'evaluate': frozenset({'eval_split', 'eval_dims', 'checkpoint'}),
  'embed': frozenset({'eval_split', 'checkpoint'}),
  'retrieve': frozenset({'eval_split', 'eval_dims', 'retrieval', 'checkpoint'}),
  'report': frozenset(),
}
# What a stage leaves behind; deleted, the stage runs again.
_OUTPUT = {
  'train': 'checkpoints',
  'evaluate': 'metrics.jsonl',
  'embed': 'embeddings',
  'retrieve': 'retrieval/retrieval.json',
  'report': 'report/index.html',
}
_AFTER_TRAINING = frozenset().union(*STAGE_FIELDS.values())


class Workdir:
  """Paths, the config of record, and the marks of finished stages."""

  def __init__(self, path: str | os.PathLike, config: Mapping[str, Any]):
    """Looks, and writes nothing.

    Args:
      path: need not exist yet.
      config: the resolved config, as plain JSON types.

    Raises:
      ValueError: `path` is a file or cannot be written, or the config there
        was trained with other settings.
    """
    self.path = pathlib.Path(path).expanduser().absolute()
    self.config = json.loads(json.dumps(config))
    _check_writable(self.path)
    recorded = read_json(self.path / 'config.json', missing={})
    self.check_config(recorded, self.path / 'config.json')

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.path / 'checkpoints'

  @property
  def metrics(self) -> pathlib.Path:
    return self.path / 'metrics.jsonl'

  @property
  def embeddings(self) -> pathlib.Path:
    return self.path / 'embeddings'

  @property
  def retrieval(self) -> pathlib.Path:
    return self.path / 'retrieval'

  @property
  def report(self) -> pathlib.Path:
    return self.path / 'report'

  def check_config(
    self, recorded: Mapping[str, Any], where: str | os.PathLike
  ) -> None:
    """Raises ValueError if `recorded` was trained with other settings.

    The line names each field that differs, with both values.
    """
    if not recorded:
      return
    names = (self.config.keys() | recorded.keys()) - FREE_FIELDS
    pairs = [
      (name, recorded.get(name), self.config.get(name))
      for name in sorted(names - _AFTER_TRAINING)
    ]
    differences = [
      f'{name} is {there!r} there and {here!r} now'
      for name, there, here in pairs
      if there != here
    ]
    if differences:
      raise ValueError(
        f'{where} was made with another config: {"; ".join(differences)}. '
        'Give the same, or another --workdir'
      )

  def write_config(self) -> None:
    write_json(self.path / 'config.json', self.config)

  def is_finished(self, stage: str) -> bool:
    """Whether the stage is done, for this config and the latest checkpoint."""
    marks = read_json(self.path / 'stages.json', missing={})
    return (
      marks.get(stage, {}).get('fingerprint') == self._fingerprint(stage)
      and (self.path / _OUTPUT[stage]).exists()
    )

  def mark_finished(self, stage: str, seconds: float) -> None:
    marks = read_json(self.path / 'stages.json', missing={})
    marks[stage] = {
      'fingerprint': self._fingerprint(stage),
      'seconds': round(seconds, 3),
      'finished': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    }
    write_json(self.path / 'stages.json', marks)

  def latest_step(self) -> int:
    """Of the checkpoints; 0 if there is none."""
    if not self.checkpoints.is_dir():
      return 0
    names = (entry.name for entry in self.checkpoints.iterdir())
    return max((int(name) for name in names if name.isdecimal()), default=0)

  def require(self, stage: str, needed_by: str, path: pathlib.Path) -> None:
    """Raises ValueError, naming the stage to run, unless `path` is there."""
    if not path.exists():
      raise ValueError(
        f'{needed_by} reads {path}, which is not there: run '
        f'--mode={stage} first'
      )

  def config_hash(self) -> str:
    """Of the settings that training depends on: 12 hexadecimal digits."""
    return self._hash(self.config.keys() - FREE_FIELDS - _AFTER_TRAINING)

  def _fingerprint(self, stage: str) -> str:
    # The report shows all of them, so it depends on every stage's fields.
    fields = _AFTER_TRAINING if stage == 'report' else STAGE_FIELDS[stage]
    return f'{self.config_hash()}-{self._hash(fields)}-{self.latest_step()}'

  def _hash(self, names) -> str:
    chosen = {name: self.config.get(name) for name in sorted(names)}
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]


def _check_writable(path: pathlib.Path) -> None:
  if path.exists() and not path.is_dir():
    raise ValueError(f'workdir {path} is a file')
  existing = path
  while not existing.exists():
    existing = existing.parent
  if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
    raise ValueError(f'workdir {path}: {existing} is not writable')


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`, and renames it at the end.

  A reader sees the file that was there before, or the whole new one. On an
  exception the temporary file goes, and the old one stays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{uuid.uuid4().hex[:8]}.{path.name}')
  try:
    yield temporary
    with open(temporary, 'rb') as file:
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2) + '\n')


def read_json(path: pathlib.Path, *, missing: Any = None) -> Any:
  """Raises ValueError, naming the file, if it is not JSON."""
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    if missing is None:
      raise
    return missing
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} is not JSON: {error}') from None
