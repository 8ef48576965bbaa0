"""Notices SIGTERM and Ctrl-C, so that a run can save before it ends."""

from collections.abc import Iterable, Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

# The exit code by which a shell reports SIGTERM.
EXIT_CODE = 128 + signal.SIGTERM
# Seconds until a lost Ctrl-C is raised again.
_AGAIN = 0.1


class Stopped(Exception):
  """Raised between two batches of an evaluation that a signal has ended."""


class Preemption:
  """Notices SIGTERM and Ctrl-C while used as a context manager.

  The first signal sets a flag that the caller asks for after every step; the
  second ends the process at once. A flag cannot get lost, unlike a
  KeyboardInterrupt raised inside a callback.
  """

  def __init__(self):
    self._number = None
    self._previous = {}

  def __enter__(self) -> 'Preemption':
    # Among several processes JAX's own handler tells all of them of SIGTERM;
    # only the main thread may set one.
    alone = jax.process_count() == 1
    if alone and threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        # A process in the background of a shell ignores Ctrl-C.
        if signal.getsignal(number) != signal.SIG_IGN:
          self._previous[number] = signal.signal(number, self._notice)
    return self

  def __exit__(self, *error) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _notice(self, number, frame) -> None:
    del frame
    self._number = number
    signal.signal(number, signal.SIG_DFL)
    if number == signal.SIGINT:
      # Not print, which a handler may have interrupted.
      os.write(2, b'\ninterrupted: ends soon; Ctrl-C once more ends at once\n')

  @property
  def name(self) -> str:
    """The name of the signal."""
    return 'Ctrl-C' if self._number == signal.SIGINT else 'SIGTERM'

  def noticed(self, step: int) -> bool:
    """Whether to save and end after this step; all processes agree.

    Must be called after every step.
    """
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._number is not None

  def until(self, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields batches; raises Stopped after a signal, unless among processes."""
    for batch in batches:
      if self._number is not None:
        raise Stopped
      yield batch

  def end(self) -> NoReturn:
    """Ends the process: KeyboardInterrupt for Ctrl-C, else EXIT_CODE."""
    if self._number == signal.SIGINT:
      raise KeyboardInterrupt
    sys.exit(EXIT_CODE)

  def end_if_noticed(self) -> None:
    """Ends the process if a signal has come."""
    if self._number is not None:
      self.end()


@contextlib.contextmanager
def interrupts_heard() -> Iterator[None]:
  """Raises a Ctrl-C again if it came where Python ignores exceptions.

  JAX cleans up in a callback of Python's garbage collector, and an exception
  raised there is printed and lost.
  """
  previous = sys.unraisablehook

  def hook(unraisable):
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
      # Once the callback has ended. A signal also wakes a waiting thread.
      main = threading.main_thread().ident
      timer = threading.Timer(
        _AGAIN, signal.pthread_kill, (main, signal.SIGINT)
      )
      timer.daemon = True
      timer.start()
    else:
      previous(unraisable)

  sys.unraisablehook = hook
  try:
    yield
  finally:
    sys.unraisablehook = previous
