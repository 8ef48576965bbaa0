"""Refuses work in forked processes, where JAX and Faiss would wait forever.

A fork copies only the thread that calls it: locks that the other threads hold
are never released, and work that is given to them is never done.
"""

import os

from jax._src import xla_bridge

_is_late = False


def check() -> None:
  """Raises ValueError in a process that was forked after JAX had begun.

  Call it before any work of JAX, or of Faiss with several threads.
  """
  if _is_late:
    raise ValueError(
      f'process {os.getpid()} was forked after JAX had begun, and would wait '
      "for ever: start it by 'spawn' or 'forkserver' "
      '(multiprocessing.get_context), or fork before JAX is used'
    )


def _note() -> None:
  global _is_late
  _is_late = _is_late or xla_bridge.backends_are_initialized()


if hasattr(os, 'register_at_fork'):  # Windows has no fork.
  os.register_at_fork(after_in_child=_note)
