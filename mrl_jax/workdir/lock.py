"""Locks between processes; a lock ends with its process."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import socket

import filelock

# Seconds to wait for a lock that others hold for milliseconds.
_PATIENCE = 60


@contextlib.contextmanager
def held(path: pathlib.Path, task: str, refusal: str) -> Iterator[None]:
  """Holds a lock, in a folder that exists, for the length of a task.

  Other processes see the task's name with pid and host. Raises ValueError if
  one of them holds the lock; the message is `refusal`, then who holds it.
  """
  # The lock's own file does not serve: a second process may empty it.
  holder = path.with_name(f'{path.name}-holder')
  lock = filelock.FileLock(path)
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout:
    who = ''
    with contextlib.suppress(FileNotFoundError):
      who = f': {holder.read_text(encoding="utf-8").strip()}'
    raise ValueError(f'{refusal}{who}') from None
  with contextlib.ExitStack() as stack:
    stack.callback(lock.release)
    stack.callback(holder.unlink, missing_ok=True)
    host = socket.gethostname()
    holder.write_text(
      f'{task} (pid {os.getpid()} on {host})\n', encoding='utf-8'
    )
    yield


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
  """Keeps other processes out while a file is read, changed and written.

  Waits until no other process is in such a block for the same file. Raises
  OSError after a minute.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  lock_path = path.with_name(f'.{path.name}.lock')
  try:
    with filelock.FileLock(lock_path, timeout=_PATIENCE):
      yield
  except filelock.Timeout:
    raise OSError(
      f'{path} has been locked by another process for {_PATIENCE} s'
    ) from None
