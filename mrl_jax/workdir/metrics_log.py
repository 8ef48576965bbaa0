"""Writes metrics to metrics.jsonl, which stages read, and to TensorBoard."""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import json
import math
import os
import pathlib
import sys
import time
import types
from typing import BinaryIO

import jax

from mrl_jax.workdir import files
from mrl_jax.workdir import lock


class MetricWriter:
  """Writes metrics.jsonl and TensorBoard files, on the first process.

  Training and another stage may write to the same file at the same time.
  """

  def __init__(self, path: pathlib.Path, *, resume_step: int | None = None):
    """Opens the files for writing.

    Rows of steps after `resume_step`, which a killed run has left, are dropped;
    `num_dropped` counts them.
    """
    self._path = self._board = None
    self.num_dropped = 0
    if jax.process_index():
      return
    self._path = path
    path.parent.mkdir(parents=True, exist_ok=True)
    if resume_step is not None and path.exists():
      with lock.exclusive(path):
        records = read_metrics(path)
        kept = [record for record in records if record['step'] <= resume_step]
        self.num_dropped = len(records) - len(kept)
        _write(path, kept)
    self._board = _import_tensorboard().SummaryWriter(
      str(path.parent / 'tensorboard'),
      # Names of one second would be equal, and the later file the only one.
      filename_suffix=f'.{time.time_ns()}',
      purge_step=None if resume_step is None else resume_step + 1,
      # The writer's thread ends on a full disk; a short queue would then block.
      max_queue=1_000_000,
    )

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, error_type, *error) -> None:
    if not self._board:
      return
    # A full disk fails here as well; the first error says more.
    with contextlib.suppress(*([OSError] if error_type else [])):
      self._board.close()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds the row `{"step": step, **values}` as the last line.

    Raises ValueError for a value that is not finite, which JSON cannot hold.
    """
    if not self._path:
      return
    line = json.dumps({'step': step, **_finite(step, values)}) + '\n'
    with lock.exclusive(self._path), open(self._path, 'a+b') as file:
      _drop_torn_line(file)
      file.write(line.encode())
    self._show(step, values)

  def replace(
    self, step: int, values: Mapping[str, float], *, prefix: str | None = None
  ) -> None:
    """Writes a row in place of earlier ones of the same step.

    Those are the rows with a name that begins with `prefix`; None: rows with
    the same names. A row that replaces none comes after the rows of its step
    and earlier ones. Raises ValueError for a value that is not finite.
    """
    if not self._path:
      return
    values = _finite(step, values)
    with lock.exclusive(self._path):
      records = read_metrics(self._path) if self._path.exists() else []
      records = _replaced(records, {'step': step, **values}, prefix)
      _write(self._path, records)
    self._show(step, values)

  def _show(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._board.add_scalar(name, value, step)


def _import_tensorboard() -> types.ModuleType:
  """Imports tensorboardX, without PyTorch.

  It would import PyTorch wherever that is installed, for seconds, to take its
  tensors as values.
  """
  hides = 'torch' not in sys.modules
  if hides:
    sys.modules['torch'] = None
  try:
    import tensorboardX
  finally:
    if hides:
      del sys.modules['torch']
  return tensorboardX


def _finite(step: int, values: Mapping[str, float]) -> dict[str, float]:
  values = {name: float(value) for name, value in values.items()}
  if not all(map(math.isfinite, values.values())):
    raise ValueError(f'step {step}: not finite in {values}')
  return values


def _replaced(
  records: Sequence[Mapping[str, float]],
  row: dict[str, float],
  prefix: str | None,
) -> list[Mapping[str, float]]:
  def is_same(record):
    if prefix is None:
      return record.keys() == row.keys()
    return any(name.startswith(prefix) for name in record)

  old = [
    i
    for i, record in enumerate(records)
    if record['step'] == row['step'] and is_same(record)
  ]
  before = [i for i, x in enumerate(records) if x['step'] <= row['step']]
  at = old[0] if old else before[-1] + 1 if before else 0
  rest = [record for i, record in enumerate(records) if i not in old]
  return [*rest[:at], row, *rest[at:]]


def _write(path: pathlib.Path, records: Iterable[Mapping[str, float]]) -> None:
  files.write_text(path, ''.join(json.dumps(x) + '\n' for x in records))


def _drop_torn_line(file: BinaryIO) -> None:
  """Cuts off an incomplete last line, which a killed process has left."""
  file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
  if file.read() not in (b'', b'\n'):
    file.seek(0)
    file.truncate(file.read().rfind(b'\n') + 1)


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
  """Reads the rows of a metrics.jsonl, without an incomplete last line.

  Raises ValueError, with the line's number, for any other that is not a JSON
  object with a step.
  """
  lines = path.read_bytes().splitlines()
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      record = files.parse_json(line, 'the line', dict[str, float])
      records.append({**record, 'step': int(record['step'])})
    except (ValueError, KeyError):
      if number < len(lines):
        raise ValueError(
          f'{path}, line {number}: not a JSON object of numbers with a step'
        ) from None
  return records


def last_evaluation(
  path: pathlib.Path, width: int, step: int | None = None
) -> dict[str, float] | None:
  """The last row of the stage evaluate in a metrics.jsonl; None without one.

  The row must be of this checkpoint's step (None: of any), and have the 1-NN
  accuracy of this measured dim, which rows of the training do not have.
  """
  rows = [
    record
    for record in read_metrics(path)
    if f'val/knn1@{width}' in record and step in (None, record['step'])
  ]
  return rows[-1] if rows else None
