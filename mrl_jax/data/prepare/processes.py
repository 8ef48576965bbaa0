"""Spreads work over processes, none of which outlives this one."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from typing import Any


def run(
  function: Callable[[Any], Any], tasks: Sequence[Any], workers: int
) -> Iterator[tuple[Any, Any]]:
  """Yields each task with `function(task)`, in the order they are finished.

  With one worker or one task the work is done here, in order. An exception of
  the function is raised here, and ends the other workers. Raises ValueError if
  a worker is killed.
  """
  workers = min(workers, len(tasks))
  if workers <= 1:
    for task in tasks:
      yield task, function(task)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    # Forked, they would share the locks of this process's threads.
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_follow_parent,
  )
  with pool:
    # Started here, so that those of other work are left alone.
    before = set(multiprocessing.active_children())
    futures = {pool.submit(function, task): task for task in tasks}
    try:
      for future in concurrent.futures.as_completed(futures):
        yield futures[future], future.result()
    except BaseException as error:
      pool.shutdown(wait=False, cancel_futures=True)
      for process in set(multiprocessing.active_children()) - before:
        process.terminate()
      if isinstance(error, concurrent.futures.BrokenExecutor):
        raise ValueError(
          'a worker process was killed, perhaps for want of memory: try fewer '
          '--workers'
        ) from error
      raise


def _follow_parent() -> None:
  # Ctrl-C reaches every process of the terminal; the parent ends the others.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process().sentinel

  def wait():
    multiprocessing.connection.wait([parent])
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
