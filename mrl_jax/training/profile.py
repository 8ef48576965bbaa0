"""A trace of some training steps, as XProf and Perfetto read it."""

import pathlib
import re
from typing import Any

import jax


def parse(span: str) -> tuple[int, int]:
  """The first step of START:STOP and the one after the last; '' is none.

  Raises ValueError for anything else, or a stop that is not after the start.
  """
  if not span:
    return 0, 0
  match = re.fullmatch(r'(\d+):(\d+)', span)
  start, stop = map(int, match.groups()) if match else (0, 0)
  if not 0 < start < stop:
    raise ValueError(f'profile {span!r}: must be START:STOP, 0 < START < STOP')
  return start, stop


class Profile:
  """Writes the trace to a folder. A context manager: it is whole afterwards."""

  def __init__(self, span: str, path: pathlib.Path):
    self._start, self._stop = parse(span)
    self._path = path
    self._running = False

  def __enter__(self) -> 'Profile':
    return self

  def __exit__(self, *error) -> None:
    self._end()

  def before(self, step: int, state: Any) -> None:
    """To be called before each step, with the state that goes into it."""
    if step in (self._start, self._stop):
      # The device may be a step behind; its work belongs to its own step.
      jax.block_until_ready(state)
    if step == self._stop:
      self._end()
    if step == self._start:
      jax.profiler.start_trace(self._path)
      self._running = True

  def _end(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
