"""Locks between processes; one ends with its process, however that ends."""

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
  """Holds a lock for the length of a task.

  Args:
    path: of the lock's file, whose folder is there.
    task: what other processes are told of this one, with its number and host.
    refusal: what this one is told where another holds the lock.

  Raises:
    ValueError: another process holds the lock. It is named after `refusal`.
  """
  # Not in the lock's own file, which a second process may empty.
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
  """Waits until no other process is in such a block for the same file.

  For a read, a change and a write that belong together. Raises OSError if
  another process stays in its block for a minute.
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
