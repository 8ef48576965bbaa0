"""The processor's cores."""

import os


def count() -> int:
  """How many this process may use.

  macOS does not say, nor Windows: there it is how many the machine has.
  """
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
