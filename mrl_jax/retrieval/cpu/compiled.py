"""Compiles loops by Numba, once for all shapes, into a cache on disk.

Loops hold no lock of Python, so that threads run them side by side. Numba keeps
a compiled loop until its own file is changed, but not where those that it calls
are: here it does so until any file of this folder is.
"""

from collections.abc import Callable
import functools
import pathlib

import numba


def loop(function: Callable) -> Callable:
  return _compiled(function, {'contract', 'nsz'})


def sums(function: Callable) -> Callable:
  """Also lets the terms of sums be added in another order."""
  return _compiled(function, {'contract', 'nsz', 'reassoc'})


def _compiled(function, fastmath):
  compiled = numba.njit(
    fastmath=fastmath, nogil=True, cache=True, error_model='numpy'
  )(function)
  # Numba has no setting for this; it has no cache where NUMBA_DISABLE_JIT is.
  file = getattr(getattr(compiled, '_cache', None), '_cache_file', None)
  if file is not None:
    file._source_stamp = file._source_stamp, _stamp()
  return compiled


@functools.cache
def _stamp() -> tuple:
  files = sorted(pathlib.Path(__file__).parent.glob('*.py'))
  return tuple((x.name, x.stat().st_mtime_ns, x.stat().st_size) for x in files)
