"""The device mesh, and the shardings of arrays on it."""

from collections.abc import Mapping, Sequence
import hashlib
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mrl_jax import checks

# Elements of the smallest array that is worth splitting.
_LEAST_SPLIT = 2**14


@checks.takes(
  data=checks.whole(0),
  model=checks.whole(),
)
def make_mesh(data: int = 0, model: int = 1) -> jax.sharding.Mesh:
  """Makes a mesh with the axes `data` and `model` over the first devices.

  Args:
    data: number of parts of a batch; 0: as many as there are devices for.
    model: number of parts of the head's classes.

  Raises:
    ValueError: there are not as many devices, or, with several processes, some
      would be left out.
  """
  devices = jax.devices()
  count = (data or len(devices) // model) * model
  if not 0 < count <= len(devices):
    raise ValueError(
      f'mesh data={data} (0 means all) x model={model}: there are '
      f'{len(devices)} devices'
    )
  if count < len(devices) and jax.process_count() > 1:
    raise ValueError(
      f'mesh data={data} x model={model}: several processes use all '
      f'{len(devices)} devices'
    )
  return jax.make_mesh(
    (count // model, model),
    ('data', 'model'),
    axis_types=(AxisType.Auto,) * 2,
    devices=devices[:count],
  )


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Splits the leading axis over `data`."""
  return NamedSharding(mesh, PartitionSpec('data'))


def of_state(tree: Any, mesh: jax.sharding.Mesh, *, fsdp: bool = False) -> Any:
  """The sharding of each array of a training state, in its tree.

  The head's arrays are split by classes over `model`. With `fsdp` each large
  array is also split over `data`, along its longest axis that can be: the
  compiler gathers it where it is used (ZeRO, arXiv 1910.02054, stage 3). All
  other arrays are replicated.
  """

  def place(path, x):
    axes = [None] * x.ndim
    is_head = any(getattr(key, 'key', None) == 'head' for key in path)
    if is_head and x.ndim and not x.shape[-1] % mesh.shape['model']:
      axes[-1] = 'model'
    free = [
      axis
      for axis in range(x.ndim)
      if axes[axis] is None and not x.shape[axis] % mesh.shape['data']
    ]
    if fsdp and free and x.size >= _LEAST_SPLIT:
      axes[max(free, key=lambda axis: x.shape[axis])] = 'data'
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(place, tree)


@checks.takes(
  batch_size=checks.whole(),
  micro_batches=checks.whole(),
)
def check_batch_size(
  batch_size: int, mesh: jax.sharding.Mesh, micro_batches: int = 1
) -> None:
  """Raises ValueError unless each part of a batch divides evenly."""
  devices = mesh.shape['data']
  parts = devices * micro_batches
  if batch_size % parts:
    factors = [f'{devices} device{"s" if devices > 1 else ""}']
    factors += [f'{micro_batches} micro_batches'] * (micro_batches > 1)
    raise ValueError(
      f'batch_size {batch_size}: must be a multiple of {parts} '
      f'({" x ".join(factors)})'
    )


def batch_norm_group(
  group: int | str,
  batch_size: int,
  mesh: jax.sharding.Mesh,
  micro_batches: int = 1,
  begun: int = 0,
) -> int:
  """The number of examples in each group that BatchNorm normalises alone.

  Args:
    group: the number, 0 for the whole batch, or `device` for each device's
      share of a batch or micro-batch.
    batch_size: examples of the batch, over all devices.
    mesh: the devices.
    micro_batches: parts of a batch.
    begun: the number that a resumed training was begun with, which `device`
      keeps on any number of devices; 0: unknown, or a new training.

  Raises:
    ValueError: a group is neither within one device nor on several whole ones.
  """
  share = batch_size // (mesh.shape['data'] * micro_batches)
  if isinstance(group, str):
    if group != 'device':
      raise ValueError(
        f"batch_norm_group {group!r}: must be a number or 'device'"
      )
    group = begun or share
  if group and share % group and group % share:
    raise ValueError(
      f'batch_norm_group {group}: must divide the {share} examples of a '
      'device, or be a multiple of them'
    )
  return group


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
  """Puts an array whole on every device, from each process's own copy."""
  return jax.make_array_from_callback(
    array.shape, replicated(mesh), lambda index: array[index]
  )


def to_host(array: jax.Array) -> np.ndarray:
  """Fetches an array that may be spread over processes, as numpy."""
  if array.is_fully_addressable:
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)


def barrier(name: str) -> None:
  """Waits until all processes have arrived."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def agreed(text: str) -> bool:
  """Whether all processes pass the same text."""
  if jax.process_count() == 1:
    return True
  digest = hashlib.sha256(text.encode()).digest()
  digest = np.frombuffer(digest, np.uint8)
  return bool((multihost_utils.process_allgather(digest) == digest).all())


def union(texts: Sequence[str]) -> list[str]:
  """The distinct texts of all processes, sorted."""
  if jax.process_count() == 1:
    return sorted(set(texts))
  data = np.frombuffer(json.dumps(texts).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(data.size))
  rows = multihost_utils.process_allgather(
    np.pad(data, (0, sizes.max() - data.size))
  )
  lists = (
    json.loads(row[:size].tobytes())
    for row, size in zip(rows, sizes, strict=True)
  )
  return sorted({text for texts in lists for text in texts})
