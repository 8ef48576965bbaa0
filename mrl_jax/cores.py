"""The number of CPU cores."""

import os


def count() -> int:
  """How many cores this process may use.

  macOS and Windows do not tell; there it is the number of the machine.
  """
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
