"""Where numbers go: metrics.jsonl, TensorBoard, and the terminal."""

from collections.abc import Mapping, Sequence
import json
import pathlib
import sys
import time

import jax

from mrl_jax import workdir as workdir_lib


class MetricWriter:
  """Appends to metrics.jsonl, the record of truth, and to TensorBoard files.

  Only the first process writes.
  """

  def __init__(self, path: pathlib.Path, *, resume_step: int | None = None):
    """Opens for appending.

    `resume_step`: drop what a killed run wrote after that step; it will be
    written again. None drops only a last line that was cut short.
    """
    self._file = self._board = None
    if jax.process_index():
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    _truncate(path, resume_step)
    self._file = open(path, 'a')  # noqa: SIM115 (closed in __exit__)
    import tensorboardX

    self._board = tensorboardX.SummaryWriter(
      str(path.parent / 'tensorboard'),
      purge_step=None if resume_step is None else resume_step + 1,
    )

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *error) -> None:
    if self._file:
      self._file.close()
      self._board.close()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """One line, flushed: `{"step": step, **values}`."""
    if not self._file:
      return
    values = {name: float(value) for name, value in values.items()}
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)


def _truncate(path: pathlib.Path, resume_step: int | None) -> None:
  if not path.exists():
    return
  lines = read_metrics(path)
  if resume_step is not None:
    lines = [line for line in lines if line['step'] <= resume_step]
  with workdir_lib.replacing(path) as temporary:
    temporary.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
  """The lines of a metrics.jsonl; a last line that was cut short is left out.

  Raises ValueError, with the line's number, for any other that is not JSON.
  """
  lines = path.read_text().splitlines()
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      if number < len(lines):
        raise ValueError(f'{path}, line {number} is not JSON') from None
  return records


def say(message: str) -> None:
  """Prints a line, on the first process only."""
  if not jax.process_index():
    print(message, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  """Columns aligned right; floats to two decimals, None as a dash."""

  def show(cell):
    if cell is None:
      return '-'
    return f'{cell:.2f}' if isinstance(cell, float) else str(cell)

  cells = [list(header), *([show(cell) for cell in row] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) for cell, width in zip(row, widths, strict=True)
    )
    for row in cells
  )


class Progress:
  """Shows how training goes: a bar on a terminal, plain lines elsewhere."""

  def __init__(
    self,
    *,
    start_step: int,
    total_steps: int,
    steps_per_epoch: int,
    batch_size: int,
    nesting_dims: Sequence[int],
    log_every_steps: int,
  ):
    self._steps_per_epoch = steps_per_epoch
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._nesting_dims = nesting_dims
    self._log_every_steps = log_every_steps
    self._last = (time.perf_counter(), start_step)
    self._bar = None
    if sys.stderr.isatty() and not jax.process_index():
      import tqdm

      self._bar = tqdm.tqdm(
        total=total_steps,
        initial=start_step,
        unit='step',
        dynamic_ncols=True,
        bar_format='{percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt} '
        '[{remaining} left] {desc}',
      )

  def update(self, step: int, loss_G: Sequence[float]) -> float | None:
    """Called after every step; at each `log_every_steps` returns images/s."""
    if self._bar is not None:
      self._bar.update(step - self._bar.n)
    if step % self._log_every_steps and step != self._total_steps:
      return None
    now, (then, before) = time.perf_counter(), self._last
    self._last = (now, step)
    rate = (step - before) * self._batch_size / max(now - then, 1e-9)
    left = (self._total_steps - step) * self._batch_size / max(rate, 1e-9)
    losses = ' '.join(
      f'@{dim} {loss:.3f}'
      for dim, loss in zip(self._nesting_dims, loss_G, strict=True)
    )
    epoch = step / self._steps_per_epoch
    line = f'epoch {epoch:.2f}  loss {losses}  {rate:,.0f} images/s'
    if self._bar is not None:
      self._bar.set_description_str(line)
    else:
      say(f'step {step}/{self._total_steps}  {line}  {_clock(left)} left')
    return rate

  def say(self, message: str) -> None:
    """Prints a line without tearing the bar."""
    if self._bar is None:
      say(message)
    else:
      self._bar.write(message, file=sys.stderr)

  def resume(self, step: int) -> None:
    """Restarts the clock, so that other work does not count as training."""
    self._last = (time.perf_counter(), step)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.refresh()
      self._bar.close()


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
  )
