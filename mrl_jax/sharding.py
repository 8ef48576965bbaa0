"""The device mesh, and how arrays lie on it."""

from collections.abc import Mapping

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np


def make_mesh(num_devices: int = 0) -> jax.sharding.Mesh:
  """A mesh of one axis, `data`, over the first `num_devices` devices; 0: all.

  Raises ValueError for more devices than there are, or, with several
  processes, for less than all.
  """
  devices = jax.devices()
  if not 0 <= num_devices <= len(devices):
    raise ValueError(
      f'num_devices {num_devices}: there are {len(devices)} (0 means all)'
    )
  if num_devices and jax.process_count() > 1:
    raise ValueError(f'num_devices {num_devices}: several processes use all')
  devices = devices[: num_devices or len(devices)]
  return jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Splits the leading axis over `data`."""
  return NamedSharding(mesh, PartitionSpec('data'))


def check_batch_size(
  batch_size: int, mesh: jax.sharding.Mesh, micro_batches: int = 1
) -> None:
  """Raises ValueError unless all devices have as many rows of each part."""
  if batch_size % (mesh.size * micro_batches):
    parts = (
      f', times {micro_batches} micro_batches' if micro_batches > 1 else ''
    )
    raise ValueError(
      f'batch_size {batch_size}: must be a multiple of the {mesh.size} devices'
      + parts
    )


def local_rows(batch_size: int, mesh: jax.sharding.Mesh) -> list[int]:
  """The rows of a global batch that lie on this process's devices, in order."""
  slices = over_data(mesh).addressable_devices_indices_map((batch_size,))
  rows = {row for (s,) in slices.values() for row in range(batch_size)[s]}
  return sorted(rows)


def shard_batch(
  batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """Puts this process's rows of a batch onto its devices."""
  return {
    name: jax.make_array_from_process_local_data(over_data(mesh), rows)
    for name, rows in batch.items()
  }


def replicate(array: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
  """The whole array on every device, from each process's own copy of it."""
  return jax.make_array_from_callback(
    array.shape, replicated(mesh), lambda index: array[index]
  )


def to_host(array: jax.Array) -> np.ndarray:
  """The whole of an array that may be spread over processes, as numpy."""
  if array.is_fully_addressable:
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)


def barrier(name: str) -> None:
  """Waits until all processes have come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
