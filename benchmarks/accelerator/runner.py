"""Runs the parts, each in a process of its own, within the minutes."""

from collections.abc import Sequence
import contextlib
import gc
import glob
import multiprocessing
import os
import pathlib
import signal
import sys
import time
from typing import Any

from benchmarks.accelerator import missing
from benchmarks.accelerator.parts import Part
from benchmarks.accelerator.results import Record
from benchmarks.accelerator.sizes import Sizes

# Less is not enough for one training step to be compiled and timed.
LEAST_MINUTES = 2.0
LEAST_TINY = 0.2
# Seconds: until a process must have found its device; of the last part at
# least; and kept for the tables.
_READY, _LEAST, _END = 60, 2, 3
# Seconds that a process has to end by itself once it is done.
_GRACE = 5
# Of the drivers of GPUs and TPUs.
_DEVICE_FILES = ('/dev/nvidia[0-9]*', '/dev/accel*', '/dev/vfio/[0-9]*')


def check_minutes(minutes: float, *, tiny: bool) -> None:
  """Raises ValueError if nothing could be measured in that time."""
  least = LEAST_TINY if tiny else LEAST_MINUTES
  if not minutes >= least:
    raise ValueError(
      f'--minutes={minutes:g}: must be at least {least:g}'
      + ('' if tiny else ', as compiling one training step takes one')
    )


def run(
  parts: Sequence[Part], sizes: Sizes, record: Record, deadline: float
) -> None:
  """Runs the parts in order until the deadline, a time of `time.monotonic`.

  A part has a share of the time that is left, and may take half as long again.
  """
  missing.stand_in()
  method = _method(parts)
  end = deadline - _END
  shares = [part.share for part in parts]
  for i, part in enumerate(parts):
    left = end - time.monotonic()
    seconds = left * shares[i] / sum(shares[i:])
    if left < _LEAST:
      why = f'{max(left, 0):.0f} s left of the minutes'
      record.add(_row(part, 'skipped', why))
      continue
    last = min(time.monotonic() + 1.5 * seconds + 10, end)
    process = _Process(part, sizes, record, seconds, last)
    found = process.run(method)
    if not _is_device(found) and method == 'fork':
      # Some drivers do not work in a process that was forked.
      method = 'spawn'
      found = process.run(method)
    if not found:
      record.add(_row(part, 'failed', 'its process did not find a device'))


def _is_device(platform: str) -> bool:
  """Whether a process found the device that there seems to be."""
  if platform != 'cpu':
    return bool(platform)
  return not any(glob.glob(pattern) for pattern in _DEVICE_FILES)


def _method(parts: Sequence[Part]) -> str:
  """Imports the parts, once for all processes, and chooses how they start."""
  for part in parts:
    try:
      part.load()
    except ImportError as error:
      # Its process will say so, too; this says it at once.
      print(f'{part.name}: {error}', file=sys.stderr)
  if 'fork' not in multiprocessing.get_all_start_methods():
    return 'spawn'
  with contextlib.suppress(ImportError):
    import torch._dynamo  # noqa: F401
  # The processes need not look at these objects again and again.
  gc.collect()
  gc.freeze()
  from jax._src import xla_bridge

  return 'spawn' if xla_bridge.backends_are_initialized() else 'fork'


def _row(part: Part, status: str, why: str) -> dict[str, Any]:
  item = ' '.join(map(str, part.arguments)) or 'all of it'
  return {'part': part.name, 'item': item, 'status': status, 'why': why}


class _Process:
  """A part's process, whose results go to the record as they come."""

  def __init__(
    self,
    part: Part,
    sizes: Sizes,
    record: Record,
    seconds: float,
    last: float,
  ):
    """It should end by itself in `seconds`, and is ended at the time `last`."""
    self._part = part
    self._sizes = sizes
    self._record = record
    self._seconds = seconds
    self._last = last

  def run(self, method: str) -> str:
    """Runs it to its end; its platform, or nothing if it found no device.

    Where it is on a CPU although there seems to be a device, it has done
    nothing.
    """
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    end = time.monotonic() + self._seconds
    process = context.Process(
      target=_work,
      args=(theirs, self._part, self._sizes, end, self._record.folder),
    )
    process.start()
    theirs.close()
    try:
      platform = self._platform(ours)
      if platform and (_is_device(platform) or method != 'fork'):
        ours.send('go')
        self._follow(ours, process)
      return platform
    finally:
      _end(process)

  def _platform(self, connection) -> str:
    until = min(time.monotonic() + _READY, self._last)
    with contextlib.suppress(EOFError):
      if connection.poll(max(until - time.monotonic(), 0)):
        return connection.recv()
    return ''

  def _follow(self, connection, process) -> None:
    while connection.poll(max(self._last - time.monotonic(), 0)):
      try:
        row = connection.recv()
      except EOFError:
        process.join(_GRACE)
        why = f'its process ended with {process.exitcode}'
        self._record.add(_row(self._part, 'failed', why))
        return
      if row is None:
        process.join(_GRACE)
        return
      self._record.add({'part': self._part.name, **row})
    why = 'cut off: its time was over'
    self._record.add(_row(self._part, 'failed', why))


def _end(process) -> None:
  """Ends the process with all that it has started, which is in its group."""
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except (ProcessLookupError, PermissionError):
    process.kill()
  process.join(_GRACE)


def _work(
  connection, part: Part, sizes: Sizes, end: float, out: pathlib.Path
) -> None:
  """The part's process: sends its platform, its rows, and None at the end."""
  os.setpgid(0, 0)
  missing.stand_in()
  import jax

  from benchmarks.accelerator import task as task_lib

  jax.block_until_ready(jax.numpy.ones(1) + 1)
  connection.send(jax.default_backend())
  connection.recv()
  task = task_lib.Task(sizes, end, out, connection.send)
  try:
    if jax.default_backend() == 'cpu' and not sizes.tiny:
      raise ValueError('JAX finds a CPU alone; --tiny tries this out on one')
    part.load().run(task, *part.arguments)
  # Whatever goes wrong is the part's result.
  except Exception as error:
    why = task_lib.line(error)
    connection.send({'item': 'all of it', 'status': 'failed', 'why': why})
  connection.send(None)
