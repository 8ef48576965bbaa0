"""The memory of the devices."""

import os
import sys

import jax
from jax.experimental import multihost_utils
import numpy as np


def told(mesh: jax.sharding.Mesh) -> bool:
  """Whether the devices say how much memory they have; those of CPUs do not."""
  return all('bytes_limit' in (x.memory_stats() or {}) for x in _local(mesh))


def each(mesh: jax.sharding.Mesh) -> int:
  """Bytes of memory that JAX may use on the smallest device of the mesh.

  Devices of a CPU count with equal parts of the machine's memory.
  """
  devices = _local(mesh)
  if told(mesh):
    found = min(device.memory_stats()['bytes_limit'] for device in devices)
  else:
    found = _host() // len(devices)
  if jax.process_count() > 1:
    found = multihost_utils.process_allgather(np.float32(found)).min()
  return int(found)


def _local(mesh: jax.sharding.Mesh) -> list[jax.Device]:
  process = jax.process_index()
  return [x for x in mesh.devices.flat if x.process_index == process]


def _host() -> int:
  """Bytes of memory of this machine; without bound on Windows."""
  if not hasattr(os, 'sysconf'):
    return sys.maxsize
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
