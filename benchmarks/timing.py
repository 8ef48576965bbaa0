"""Computes medians of alternating runs, and writes a benchmark's record."""

from collections.abc import Callable, Mapping, Sequence
import importlib.metadata
import json
import platform
import time
from typing import Any

import jax
import numpy as np

from mrl_jax import cores

Row = dict[str, Any]


def medians(
  functions: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
  """Milliseconds of each function, which waits for its result itself.

  Each round calls every function in turn, so that what slows the machine down
  for a while slows all of them. Of two calls the second counts: during the
  first, threads of the library before may still spin on the cores. (Pauses
  instead make everything slower, and less alike.)
  """
  times = {name: [] for name in functions}
  for _ in range(rounds):
    for name, function in functions.items():
      function()
      start = time.perf_counter()
      function()
      times[name].append(1e3 * (time.perf_counter() - start))
  return {name: float(np.median(values)) for name, values in times.items()}


def environment(*packages: str) -> dict[str, Any]:
  """Machine, devices and versions, from which the figures come."""
  devices = jax.devices()
  return {
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'cores': cores.count(),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
  }


def show(title: str, rows: Sequence[Row]) -> None:
  """Prints rows of the same keys as a Markdown table."""
  cells = [list(rows[0]), *([_text(x) for x in row.values()] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    ' | '.join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in cells
  ]
  rule = '|'.join(
    '-' * (width + 2) if i == 0 else '-' * (width + 1) + ':'
    for i, width in enumerate(widths)
  )
  print(f'\n{title}\n')
  print(f'| {lines[0]} |\n|{rule}|')
  for line in lines[1:]:
    print(f'| {line} |')


def _text(value: Any) -> str:
  if value is None:
    return ''
  if not isinstance(value, float):
    return str(value)
  return f'{value:.2f}' if abs(value) < 100 else f'{value:,.0f}'


def write_json(path: str, record: Mapping[str, Any]) -> None:
  with open(path, 'w') as file:
    json.dump(record, file, indent=1)
    file.write('\n')
