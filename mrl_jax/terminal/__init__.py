"""Output on the terminal: lines, tables, and a progress bar."""

from collections.abc import Sequence
import dataclasses
import sys
import time

import tqdm

from mrl_jax.terminal.tables import show
from mrl_jax.terminal.tables import Table


def say(message: str) -> None:
  """Prints a line, on the first process only."""
  if _is_first_process():
    print(message, flush=True)


def _is_first_process() -> bool:
  import jax  # Takes a second, which a mistyped flag need not wait for.

  return not jax.process_index()


def table(content: Table) -> str:
  """Formats a table with columns aligned right."""
  cells = [content.header, *(map(show, row) for row in content.rows)]
  cells = [tuple(row) for row in cells]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) for cell, width in zip(row, widths, strict=True)
    )
    for row in cells
  )


@dataclasses.dataclass
class Progress:
  """Shows the progress of training: a bar on a terminal, lines elsewhere."""

  start_step: int
  total_steps: int
  steps_per_epoch: int
  batch_size: int
  nesting_dims: Sequence[int]
  log_every_steps: int
  things: str = 'images'

  def __post_init__(self):
    self.resume(self.start_step)
    self._bar = None
    if sys.stderr.isatty() and _is_first_process():
      self._bar = tqdm.tqdm(
        total=self.total_steps,
        initial=self.start_step,
        unit='step',
        dynamic_ncols=True,
        bar_format='{percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt} '
        '[{remaining} left] {desc}',
      )

  def update(self, step: int, loss_G: Sequence[float]) -> float | None:
    """Shows a step; returns examples/s at each `log_every_steps`, None else.

    Call it after every step.
    """
    if self._bar is not None:
      self._bar.update(step - self._bar.n)
    if step % self.log_every_steps and step != self.total_steps:
      return None
    now, (then, before) = time.perf_counter(), self._last
    self._last = (now, step)
    rate = (step - before) * self.batch_size / max(now - then, 1e-9)
    left = (self.total_steps - step) * self.batch_size / max(rate, 1e-9)
    losses = [
      f'@{dim} {loss:.3f}'
      for dim, loss in zip(self.nesting_dims, loss_G, strict=True)
    ]
    if self._bar is not None and len(losses) > 3:
      # A terminal of 100 columns has space for both ends and the middle.
      losses = [losses[0], losses[len(losses) // 2], losses[-1]]
    epoch = step / self.steps_per_epoch
    line = (
      f'epoch {epoch:.2f}  {rate:,.0f} {self.things}/s  loss {" ".join(losses)}'
    )
    if self._bar is not None:
      self._bar.set_description_str(line)
    else:
      clock = tqdm.tqdm.format_interval(left)
      say(f'step {step}/{self.total_steps}  {clock} left  {line}')
    return rate

  def say(self, message: str) -> None:
    """Prints a line without tearing the bar."""
    if self._bar is None:
      say(message)
    else:
      self._bar.write(message, file=sys.stderr)

  def resume(self, step: int) -> None:
    """Restarts the clock, so that work since does not count as training."""
    self._last = (time.perf_counter(), step)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *error) -> None:
    if self._bar is not None:
      self._bar.refresh()
      self._bar.close()
