"""Kills runs at chosen file operations and at random, and runs them again.

    python -m tests.stages.kills [--seed=0] [--stages=train,embed]

What a stage leaves after a kill and a second start must be, byte for byte, what
it leaves undisturbed. Each run is a fork of a process that has imported all and
has not begun to compute; second starts are in one that has compiled it all.

Compared is every file but: times (`seconds` and `finished` in stages.json,
`images_per_second` and `input_wait` in metrics.jsonl, tensorboard/), the files
of locks, a half-written stages.json or metrics.jsonl under its temporary name,
and the bytes in which Orbax stores a checkpoint, which have random names in
them: its arrays are compared, by their fingerprints. The clock by which
searches are timed stands still.
"""

import argparse
import builtins
import collections
import io
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from typing import Any, NamedTuple

from mrl_jax import stages
from mrl_jax.retrieval import neighbors
from tests import conftest

# Of the os module; calls that change a disk.
_CALLS = ('replace', 'rename', 'unlink', 'remove', 'mkdir', 'rmdir', 'fsync')
_TIMES = ('train/images_per_second', 'train/input_wait')


class Case(NamedTuple):
  """A stage, and how it is ended.

  Attributes:
    stage: its name.
    before: the stages done before it.
    killed: fields that the killed run has, beside those of the shrunk config.
    again: fields that the second start has.
    number: the signal. Those that can be caught come at random, not at an
      operation, and leave a checkpoint more.
  """

  stage: str
  before: list[str]
  killed: dict[str, Any]
  again: dict[str, Any]
  number: signal.Signals = signal.SIGKILL


class Killed(BaseException):
  """What `Death` raises where the process is to live on."""


class Death:
  """Counts operations on files below a folder; the n-th is the last one.

  `kill` ends the process. Without it Killed is raised at the n-th and at every
  one after it, as nobody cleans up behind a process that was killed.
  """

  def __init__(self, folder: pathlib.Path, at: int = 0, *, kill: bool = False):
    self._folder, self._at, self._kill = str(folder), at, kill
    self._saved = []
    self.count = 0

  def __enter__(self) -> 'Death':
    for name in _CALLS:
      self._patch(os, name, self._counted)
    for module in (builtins, io):
      self._patch(module, 'open', self._counted_if_writing)
    return self

  def __exit__(self, *error) -> None:
    for module, name, function in self._saved:
      setattr(module, name, function)

  def _patch(self, module, name, wrap):
    function = getattr(module, name)
    self._saved.append((module, name, function))
    setattr(module, name, wrap(function))

  def _counted(self, function):
    def call(path, *args, **kwargs):
      # A number is a file that is open, and may be any.
      if isinstance(path, int) or str(path).startswith(self._folder):
        self._tick()
      return function(path, *args, **kwargs)

    return call

  def _counted_if_writing(self, function):
    def call(path, mode='r', *args, **kwargs):
      if set(mode) & set('wax+') and str(path).startswith(self._folder):
        self._tick()
      return function(path, mode, *args, **kwargs)

    return call

  def _tick(self):
    self.count += 1
    if self._at and self.count >= self._at:
      if self._kill:
        os.kill(os.getpid(), signal.SIGKILL)
      raise Killed


# What a kill in the middle of writing these leaves until they are next written.
_OVERWRITTEN = ('.stages.json.tmp', '.metrics.jsonl.tmp')
# A clock for searches, whose times would be in retrieval.json.
STILL = types.SimpleNamespace(perf_counter=lambda: 0.0)


def contents(path: pathlib.Path) -> dict[str, bytes | str]:
  """What is compared of a workdir, by the files' relative names."""
  found = {}
  for file in sorted(path.rglob('*')):
    name = str(file.relative_to(path))
    if not file.is_file() or name.startswith('tensorboard'):
      continue
    if name.startswith('checkpoints/'):
      if name.endswith(('fingerprints/metadata', 'metrics/metrics')):
        found[name] = json.dumps(json.loads(file.read_text()), sort_keys=True)
      # Of what a killed save has left, the folder's name is enough.
      found['/'.join(name.split('/')[:2])] = ''
    elif name == 'stages.json':
      marks = json.loads(file.read_text())
      for mark in marks.values():
        del mark['seconds'], mark['finished']
      found[name] = json.dumps(marks, sort_keys=True)
    elif name == 'metrics.jsonl':
      rows = [json.loads(line) for line in file.read_text().splitlines()]
      rows = [
        {key: x for key, x in row.items() if key not in _TIMES} for row in rows
      ]
      found[name] = '\n'.join(map(json.dumps, rows))
    elif not name.endswith(('.lock', '.lock-holder', *_OVERWRITTEN)):
      found[name] = file.read_bytes()
  return found


def differences(path: pathlib.Path, expected: pathlib.Path) -> list[str]:
  """The names of files that differ, or that only one of the two has."""
  a, b = contents(path), contents(expected)
  return sorted(name for name in a | b if a.get(name) != b.get(name))


def _config(data_dir, fields):
  config = conftest.shrunk(data_dir)
  config.modes = ('train', 'analyze')
  with config.unlocked():
    config.update_from_flattened_dict(fields)
  return config


def _run(data_dir, path, fields, modes) -> None:
  if modes == ['torch_import']:
    from mrl_jax.stages import import_torch

    import_torch.write(fields['file'], path)
  else:
    stages.run(_config(data_dir, fields), path, modes)


class Runner:
  """A process, forked from this one, that runs what it is asked to."""

  def __init__(self, data_dir: str):
    self._asked, self._replies = os.pipe(), os.pipe()
    self.pid = os.fork()
    if self.pid:
      return
    os.close(self._asked[1])
    _quiet()
    for line in os.fdopen(self._asked[0]):
      try:
        _run(data_dir, *json.loads(line))
        reply = ''
      except BaseException:
        reply = traceback.format_exc()
      os.write(self._replies[1], (json.dumps(reply) + '\n').encode())
    os._exit(0)

  def __call__(self, path, fields, modes) -> None:
    line = json.dumps([str(path), fields, list(modes)]) + '\n'
    os.write(self._asked[1], line.encode())
    reply = b''
    while not reply.endswith(b'\n'):
      reply += os.read(self._replies[0], 1 << 16)
    if text := json.loads(reply):
      raise RuntimeError(text)


def _quiet() -> None:
  null = os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 1)
  os.dup2(null, 2)


def killed(data_dir, path, case: Case, *, at: int, seconds: float) -> str:
  """Forks a run, killed at an operation, or `seconds` after its first one.

  Returns how it ended.
  """
  pid = os.fork()
  if not pid:
    _quiet()
    with Death(path, at, kill=True) as death:
      if not at:
        _signal_after(seconds, death, case.number)
      code = 1
      try:
        _run(data_dir, path, case.killed, [case.stage])
        code = 0
      finally:
        os._exit(code)
  _, status = os.waitpid(pid, 0)
  return 'killed' if status else 'ended before'


def _signal_after(seconds: float, death: Death, number: int) -> None:
  def wait():
    while not death.count:
      time.sleep(1e-3)
    time.sleep(seconds)
    os.kill(os.getpid(), number)

  threading.Thread(target=wait, daemon=True).start()


def cases(file: str) -> list[tuple[Case, int, float]]:
  """Each with its share of the kills, and the seconds that it takes."""
  k5, knn, dims = {'retrieval.k': 5}, {'knn': 3}, {'eval_dims': (30,)}
  few, best = {'modes': ('train',), 'save': ('labels',)}, {'checkpoint': 'best'}
  done = ['train', 'embed', 'evaluate', 'retrieve', 'analyze', 'report']
  given = {'file': file}
  return [
    (Case('retrieve', done[:2], {}, {}), 8, 0.15),
    (Case('retrieve', done, k5, {}), 6, 0.15),
    (Case('retrieve', done, dims, {}), 4, 0.15),
    (Case('retrieve', done, k5, k5), 4, 0.15),
    (Case('embed', done[:1], {}, {}), 10, 0.4),
    (Case('embed', done, best, {}), 4, 0.4),
    (Case('embed', done, best, best), 4, 0.4),
    (Case('evaluate', done[:2], {}, {}), 10, 0.6),
    (Case('evaluate', done, knn, {}), 4, 0.6),
    (Case('evaluate', done, dims, dims), 4, 0.6),
    (Case('evaluate', done, few, {}), 4, 0.6),
    (Case('evaluate', done, few, few), 4, 0.6),
    (Case('train', [], {}, {}), 16, 3.0),
    (Case('train', [], {}, {}, signal.SIGTERM), 8, 3.0),
    (Case('train', [], {}, {}, signal.SIGINT), 8, 3.0),
    (Case('torch_import', [], given, given), 10, 1.0),
    (Case('export', done, {}, {}), 8, 0.5),
    (Case('analyze', done[:4], {}, {}), 6, 4.0),
    (Case('report', done[:5], {}, {}), 4, 4.0),
  ]


def _forked(function, *args):
  """What the function returns, called in a fork; as JSON."""
  reading, writing = os.pipe()
  pid = os.fork()
  if not pid:
    try:
      os.write(writing, json.dumps(function(*args)).encode())
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(0)
  os.close(writing)
  with os.fdopen(reading) as file:
    reply = file.read()
  os.waitpid(pid, 0)
  return json.loads(reply)


def _prepare(folder: pathlib.Path) -> None:
  """Writes the digits, and a file as PyTorch has them."""
  from flax import nnx
  import numpy as np
  from safetensors import numpy as safetensors

  from mrl_jax import models
  from mrl_jax.data.sources import datasets
  from mrl_jax.interop.pytorch import arrays

  datasets.open_source('digits', 'train', str(folder / 'data'))
  encoder = models.create('resnet18', rngs=nnx.Rngs(0))
  model = models.Classifier(encoder, (8, 512), 5, head='mrl', rngs=nnx.Rngs(0))
  tensors = arrays.to_torch(model, 'timm')
  tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
  safetensors.save_file(tensors, str(folder / 'model.safetensors'))


def _count(data_dir, path, fields, stage) -> int:
  with Death(path) as death:
    _quiet()
    _run(data_dir, path, fields, [stage])
  return death.count


def _make_first_best(path: pathlib.Path) -> None:
  """Gives step 4 a score that step 8 does not reach."""
  score = path / 'checkpoints' / '4' / 'metrics' / 'metrics'
  score.write_text(json.dumps({'score': 100.0}))


class Workdirs:
  """Undisturbed workdirs, made once each."""

  def __init__(self, folder: pathlib.Path, runner: Runner):
    self._folder, self._runner, self._made = folder, runner, {}

  def __call__(self, *steps) -> pathlib.Path | None:
    """The workdir after these (stage, fields); None without any."""
    if not steps:
      return None
    key = json.dumps(steps)
    if key not in self._made:
      before = self(*steps[:-1])
      path = self._folder / f'whole{len(self._made)}'
      copy(before, path)
      stage, fields = steps[-1]
      self._runner(path, fields, [stage])
      if stage == 'train':
        _make_first_best(path)
      self._made[key] = path
    return self._made[key]


def copy(path: pathlib.Path | None, to: pathlib.Path) -> None:
  """Makes `to` a copy of a workdir, or removes it."""
  shutil.rmtree(to, ignore_errors=True)
  if path:
    shutil.copytree(path, to)


def try_case(case, kills, seconds, *, data_dir, folder, run, workdirs, rng):
  """Yields for each kill how it ended, and what differs after it."""
  before = workdirs(*((stage, {}) for stage in case.before))
  steps = [(stage, {}) for stage in case.before]
  if case.stage not in case.before or case.again:
    steps.append((case.stage, case.again))
  expected = workdirs(*steps)
  path = folder / 'killed'
  copy(before, path)
  total = _forked(_count, data_dir, path, case.killed, case.stage)
  for i in range(kills):
    copy(before, path)
    # Half of them at an operation, spread evenly, and half at random.
    at_operation = i % 2 == 0 and case.number == signal.SIGKILL
    at = 1 + i * total // kills if at_operation else 0
    pause = rng.uniform(0, seconds)
    how = killed(data_dir, path, case, at=at, seconds=pause)
    try:
      run(path, case.again, [case.stage])
      if case.stage == 'train':
        _make_first_best(path)
      found = differences(path, expected)
      if case.number != signal.SIGKILL:
        found = [name for name in found if not _is_earlier(name)]
    except RuntimeError as error:
      found = [str(error)]
    yield f'{how} at {f"operation {at} of {total}" if at else "random"}', found


def _is_earlier(name: str) -> bool:
  return name.startswith('checkpoints/') and name.split('/')[1] != '8'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--stages', default='', help='these alone, with commas')
  args = parser.parse_args()
  rng = random.Random(args.seed)
  folder = pathlib.Path(tempfile.mkdtemp(prefix='kills-'))
  data_dir = str(folder / 'data')
  neighbors.time = STILL
  _forked(_prepare, folder)
  run = Runner(data_dir)
  options = {
    'data_dir': data_dir,
    'folder': folder,
    'run': run,
    'workdirs': Workdirs(folder, run),
    'rng': rng,
  }
  ends, failed = collections.Counter(), 0
  for case, kills, seconds in cases(str(folder / 'model.safetensors')):
    if args.stages and case.stage not in args.stages.split(','):
      continue
    for how, found in try_case(case, kills, seconds, **options):
      ends[how.partition(' at')[0]] += 1
      failed += bool(found)
      if found:
        print('DIFFERS', case, how, found, flush=True)
    print(*case, kills, flush=True)
  os.kill(run.pid, signal.SIGKILL)
  print(f'{dict(ends)}; {failed} left something else')
  sys.exit(failed)


if __name__ == '__main__':
  main()
