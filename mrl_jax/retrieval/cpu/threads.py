"""Threads that share the work of a search; they are started once."""

from collections.abc import Callable
import concurrent.futures
import contextlib
import functools
import itertools
import os
import threading

import threadpoolctl

from mrl_jax import cores

# Multiply-adds that are worth another thread.
WORK = 1 << 21
_lock = threading.Lock()
_pools: dict[int, concurrent.futures.ThreadPoolExecutor] = {}
# Searches under way that have limited the BLAS, and what undoes it.
_limits: list = []


def count() -> int:
  return cores.count()


def worth(work: int) -> int:
  """The number of threads for so many multiply-adds."""
  return count() if work > WORK else 1


def split(number: int, parts: int) -> list[slice]:
  """Cuts a number of things into parts, which differ by one at most."""
  ends = [number * i // parts for i in range(parts + 1)]
  return [slice(*x) for x in itertools.pairwise(ends)]


def run(work: Callable, calls: list[tuple]) -> list:
  """The results of work(*call); the caller does the first."""
  futures = [_pool().submit(work, *call) for call in calls[1:]]
  return [work(*calls[0]), *(future.result() for future in futures)]


def share(work: Callable, number: int, multiply_adds: int) -> None:
  """Calls work(slice) for shares of a number of things, by as many threads."""
  parts = split(number, worth(multiply_adds))
  run(work, [(part,) for part in parts])


def _pool() -> concurrent.futures.ThreadPoolExecutor:
  pid = os.getpid()  # A forked process has none of its parent's threads.
  with _lock:
    if pid not in _pools:
      _pools[pid] = concurrent.futures.ThreadPoolExecutor(
        cores.count(), thread_name_prefix='search'
      )
    return _pools[pid]


@contextlib.contextmanager
def single_blas():
  """Lets numpy's BLAS use only the thread that calls it.

  Each thread of a search multiplies its own rows. The threads of the BLAS would
  wait for each other at every product, which takes ten times as long on a
  machine with other work.
  """
  with _lock:
    if not _limits:
      _limits.append(_controller().limit(limits=1, user_api='blas'))
    _limits.append(None)
  try:
    yield
  finally:
    with _lock:
      _limits.pop()
      if len(_limits) == 1:
        _limits.pop().restore_original_limits()


@functools.cache
def _controller():
  """What limits the BLAS; it takes milliseconds to find its libraries."""
  return threadpoolctl.ThreadpoolController()
