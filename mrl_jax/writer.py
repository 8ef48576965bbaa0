"""Where numbers go: metrics.jsonl, the record of truth, and TensorBoard."""

from collections.abc import Mapping
import contextlib
import json
import os
import pathlib

import jax

from mrl_jax import files


class MetricWriter:
  """Appends to metrics.jsonl and to TensorBoard files; on the first process."""

  def __init__(self, path: pathlib.Path, *, resume_step: int | None = None):
    """Opens for appending; a last line that was cut short goes.

    `resume_step`: also drop what a killed run wrote after that step; it will
    be written again.
    """
    self._file = self._board = None
    if jax.process_index():
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
      if resume_step is not None:
        _drop_after(path, resume_step)
      _drop_torn_line(path)
    self._file = open(path, 'a', encoding='utf-8')  # noqa: SIM115 (closed in __exit__)
    import tensorboardX

    self._board = tensorboardX.SummaryWriter(
      str(path.parent / 'tensorboard'),
      purge_step=None if resume_step is None else resume_step + 1,
      # Its thread ends when the disk is full; a short queue would then block.
      max_queue=1_000_000,
    )

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, error_type, *error) -> None:
    if not self._file:
      return
    # A disk that is full fails here as well: the first error tells more.
    with contextlib.suppress(*([OSError] if error_type else [])):
      self._file.close()
      self._board.close()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """One line, flushed: `{"step": step, **values}`.

    Raises ValueError for a value that is not finite, which JSON cannot hold.
    """
    if not self._file:
      return
    values = {name: float(value) for name, value in values.items()}
    try:
      line = json.dumps({'step': step, **values}, allow_nan=False)
    except ValueError:
      raise ValueError(f'step {step}: not finite in {values}') from None
    self._file.write(line + '\n')
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)


def _drop_after(path: pathlib.Path, step: int) -> None:
  records = [record for record in read_metrics(path) if record['step'] <= step]
  with files.replacing(path) as temporary:
    text = ''.join(json.dumps(line) + '\n' for line in records)
    temporary.write_text(text, encoding='utf-8')


def _drop_torn_line(path: pathlib.Path) -> None:
  # In place: a training that has the file open goes on in the same one.
  text = path.read_bytes()
  if text and not text.endswith(b'\n'):
    os.truncate(path, text.rfind(b'\n') + 1)


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
  """The lines of a metrics.jsonl; a last line that was cut short is left out.

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
