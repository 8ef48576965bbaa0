"""SIGTERM: the machine is about to be taken away."""

import signal
import threading

import jax
from jax.experimental import multihost_utils

# What a shell reports of a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM


class Preemption:
  """Notices SIGTERM while used as a context manager; a second one kills."""

  def __init__(self):
    self._noticed = False
    self._previous = None

  def __enter__(self) -> 'Preemption':
    # Among several processes JAX's own handler tells all of them; only the main
    # thread may set one.
    alone = jax.process_count() == 1
    if alone and threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._notice)
    return self

  def __exit__(self, *error) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _notice(self, number, frame) -> None:
    del number, frame
    self._noticed = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

  def noticed(self, step: int) -> bool:
    """Whether to save and end after this step, the same in all processes.

    To be asked after every step.
    """
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._noticed
