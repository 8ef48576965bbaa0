"""A profile of the ResNet-50 step, reduced to shares of its time.

On all devices. Shares are of the time from the first event of the traced steps
to the last, as a mean over the devices; work in several streams at once counts
in each. The profile and the program's text are kept beside the results.
"""

from collections.abc import Sequence
import gzip
import pathlib
import re
import tempfile
from typing import Any

import jax

from benchmarks.accelerator import hlo_classes
from benchmarks.accelerator import trace_events
from benchmarks.accelerator.task import Task
from benchmarks.accelerator.trace_events import Event
from benchmarks.accelerator.train_steps import Step
from benchmarks.accelerator.train_steps import Training

_STEPS = 5
# A larger profile is not kept.
_MOST_BYTES = 15 << 20


def run(task: Task) -> None:
  task.attempt('profile', lambda: _measure(task))


def _measure(task: Task) -> list[dict[str, Any]]:
  sizes, count = task.sizes, jax.device_count()
  step = Step('MRL', sizes.pixels[0], sizes.batch * count)
  training = Training(sizes, step, num_devices=count)
  training.run(3)
  text = training.program.call.as_text()
  _keep(task.out / 'step.hlo.txt.gz', text.encode())
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    with jax.profiler.trace(folder):
      training.run(_STEPS)
    for path in folder.rglob('*.xplane.pb'):
      _keep(task.out / 'trace.xplane.pb.gz', path.read_bytes())
    events = trace_events.read(folder)
  title = f'MRL, {step.pixels} px, batch {step.batch}'
  return [
    {'item': f'{title}, {name}', **row}
    for name, row in shares(events, text, _STEPS).items()
  ]


def _keep(path: pathlib.Path, data: bytes) -> None:
  packed = gzip.compress(data)
  if len(packed) < _MOST_BYTES:
    path.write_bytes(packed)


def shares(
  events: Sequence[Event], text: str, steps: int
) -> dict[str, dict[str, Any]]:
  """Milliseconds a step and share of each class of work, and of none.

  Args:
    events: as `trace_events.read` gives them.
    text: the program's, from `compiled.as_text()`.
    steps: the number of traced steps.

  Returns:
    For each of `hlo_classes.CLASSES`, for `idle`, and for the `whole` step:
    `ms`, `share, %` and the longest operation.
  """
  classes = hlo_classes.of_program(text)
  classes |= {_plain(name): kind for name, kind in classes.items()}
  devices = sorted({event.device for event in events})
  start = min(event.start for event in events)
  span = max(event.end for event in events) - start
  totals = dict.fromkeys(hlo_classes.CLASSES, 0.0)
  by_op: dict[str, dict[str, float]] = {name: {} for name in totals}
  for event, own in _own_times(events):
    kind = _class(event, classes)
    totals[kind] += own
    op = event.op or event.name
    by_op[kind][op] = by_op[kind].get(op, 0) + own
  idle = sum(
    span - _union([event for event in events if event.device == device])
    for device in devices
  )
  per_step = 1e-6 / steps / len(devices)
  row = lambda nanoseconds, ops: {
    'ms': nanoseconds * per_step,
    'share, %': 100 * nanoseconds / span / len(devices),
    'longest': _longest(ops, per_step),
  }
  rows = {kind: row(totals[kind], by_op[kind]) for kind in totals}
  rows['idle'] = row(idle, {})
  rows['whole'] = row(span * len(devices), {})
  return rows


def _class(event: Event, classes: dict[str, str]) -> str:
  for name in (event.op, event.name, _plain(event.name)):
    if name in classes:
      return classes[name]
  return hlo_classes.of_name(event.name, event.category)


def _plain(name: str) -> str:
  """An instruction's name as its kernel has it."""
  return re.sub(r'[^\w]', '_', name)


def _longest(ops: dict[str, float], per_step: float) -> str:
  if not ops:
    return ''
  op = max(ops, key=ops.get)
  return f'{op} {ops[op] * per_step:.3f} ms'


def _own_times(events: Sequence[Event]) -> list[tuple[Event, float]]:
  """Each event with its time less that of the events inside it."""
  own = []
  for line in {(event.device, event.line) for event in events}:
    open_: list[list[Any]] = []
    inside = sorted(
      (event for event in events if (event.device, event.line) == line),
      key=lambda event: (event.start, -event.end),
    )
    for event in inside:
      while open_ and open_[-1][0].end <= event.start:
        own.append(tuple(open_.pop()))
      if open_:
        open_[-1][1] -= min(event.end, open_[-1][0].end) - event.start
      open_.append([event, event.end - event.start])
    own += map(tuple, open_)
  return own


def _union(events: Sequence[Event]) -> float:
  """Nanoseconds in which at least one of the events goes on."""
  total, end = 0.0, -1.0
  for event in sorted(events, key=lambda event: event.start):
    total += max(0.0, event.end - max(event.start, end))
    end = max(end, event.end)
  return total
