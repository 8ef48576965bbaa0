"""Traces some training steps, for XProf and Perfetto."""

import pathlib
import re
from typing import Any

import jax


def parse(span: str) -> tuple[int, int]:
  """Parses START:STOP, the first traced step and the one after the last.

  Empty text gives (0, 0). Raises ValueError for anything else.
  """
  if not span:
    return 0, 0
  match = re.fullmatch(r'(\d+):(\d+)', span)
  start, stop = map(int, match.groups()) if match else (0, 0)
  if not 0 < start < stop:
    raise ValueError(f'profile {span!r}: must be START:STOP, 0 < START < STOP')
  return start, stop


class Profile:
  """Writes the trace to a folder; use as a context manager."""

  def __init__(self, span: str, path: pathlib.Path):
    self._start, self._stop = parse(span)
    self._path = path
    self._running = False

  def __enter__(self) -> 'Profile':
    return self

  def __exit__(self, *error) -> None:
    self._end()

  def before(self, step: int, state: Any) -> None:
    """Must be called before each step, with the state that enters it."""
    if step in (self._start, self._stop):
      # The device may still be working on the step before.
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
