"""Computes medians of alternating runs, and writes a benchmark's record."""

from collections.abc import Callable, Mapping
import importlib.metadata
import json
import platform
import time
from typing import Any

import jax
import numpy as np

from benchmarks.tables import Row
from benchmarks.tables import show
from mrl_jax import cores

__all__ = ('Row', 'environment', 'medians', 'show', 'write_json')


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


def write_json(path: str, record: Mapping[str, Any]) -> None:
  with open(path, 'w') as file:
    json.dump(record, file, indent=1)
    file.write('\n')
