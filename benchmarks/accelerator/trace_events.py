"""What the devices did, from the files that JAX's profiler writes."""

from collections.abc import Iterator
import gzip
import json
import pathlib
import re
from typing import NamedTuple

import jax

_DEVICE = re.compile(r'/device:(GPU|TPU):\d+')


class Event(NamedTuple):
  """Something that a device did.

  Attributes:
    device: its name.
    line: the stream or thread that it was in.
    name: its own, such as a kernel's.
    start: nanoseconds.
    end: nanoseconds.
    op: the instruction of the program, if the profiler knows it.
    category: the kind of instruction, as TPUs tell it.
  """

  device: str
  line: str
  name: str
  start: float
  end: float
  op: str
  category: str


def read(folder: pathlib.Path) -> list[Event]:
  """The events of the devices in a folder that `jax.profiler.trace` wrote.

  Raises ValueError if there are none.
  """
  events = []
  if hasattr(jax.profiler, 'ProfileData'):
    for path in folder.rglob('*.xplane.pb'):
      events += _from_planes(path)
  if not events:
    for path in folder.rglob('*.trace.json.gz'):
      events += _from_json(path)
  if not events:
    raise ValueError(f'{folder} has no events of a device')
  return sorted(events, key=lambda event: (event.line, event.start))


def _from_planes(path: pathlib.Path) -> Iterator[Event]:
  for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
    for line in plane.lines:
      for event in line.events:
        stats = dict(event.stats)
        if _is_work(plane.name, line.name, stats):
          start = event.start_ns
          times = start, start + event.duration_ns
          yield _event(plane.name, line.name, event.name, times, stats)


def _from_json(path: pathlib.Path) -> Iterator[Event]:
  with gzip.open(path) as file:
    records = json.load(file)['traceEvents']
  names = {}
  for record in records:
    if record.get('name') in ('process_name', 'thread_name'):
      thread = record.get('tid') if record['name'] == 'thread_name' else None
      names[record['pid'], thread] = record['args']['name']
  for record in records:
    if record.get('ph') != 'X':
      continue
    plane = names.get((record['pid'], None), '')
    line = names.get((record['pid'], record['tid']), '')
    stats = record.get('args', {})
    if _is_work(plane, line, stats):
      start = 1e3 * record['ts']
      times = start, start + 1e3 * record.get('dur', 0)
      yield _event(plane, line, record['name'], times, stats)


def _is_work(plane: str, line: str, stats: dict) -> bool:
  """Whether events are kernels and copies, and not summaries of them."""
  match = _DEVICE.search(plane)
  if match is None:
    # Without an accelerator, the CPU's threads.
    return 'CPU' in plane and 'hlo_op' in stats
  return line.startswith('Stream') if match[1] == 'GPU' else line == 'XLA Ops'


def _event(plane, line, name, times, stats) -> Event:
  return Event(
    plane,
    line,
    # On a TPU the instruction's whole text.
    name.split(' = ')[0].lstrip('%'),
    *times,
    str(stats.get('hlo_op', '')),
    str(stats.get('hlo_category', '')),
  )
