"""1-NN at every width, and the adaptive search, over rows on the devices.

Rows are random: times do not depend on them. The first block of queries is a
warm-up; the seconds are those of all queries, once.
"""

import time
from typing import Any

import jax
from jax.sharding import AxisType
import numpy as np

from benchmarks.accelerator.task import Task
from mrl_jax import retrieval

# Queries that compile and warm up; the search takes as many at a time.
_BLOCK = 512
# Rows drawn at a time.
_DRAWN = 1 << 16
_K = 10


def run(task: Task) -> None:
  sizes = task.sizes
  rows_MD = query_QD = None

  def draw():
    nonlocal rows_MD, query_QD
    start = time.perf_counter()
    rows_MD = _normal(sizes.rows, sizes.width, 0)
    query_QD = _normal(sizes.queries, sizes.width, 1)
    return {'draw s': time.perf_counter() - start, 'GB': rows_MD.nbytes / 1e9}

  if not task.attempt('random rows', draw):
    return
  for dtype in sizes.search_dtypes:
    database = None

    def prepare(dtype=dtype):
      nonlocal database
      start = time.perf_counter()
      database = _prepare(task, rows_MD, dtype)
      jax.block_until_ready(database.embedding_RD)
      return {'prepare s': time.perf_counter() - start}

    if task.attempt(f'database, {dtype}', prepare, always=True):
      _searches(task, query_QD, database, dtype)


def _normal(count: int, width: int, seed: int) -> np.ndarray:
  """Normal rows, float32 [count, width], drawn on the device."""
  rows_MD = np.empty((count, width), np.float32)
  size = min(_DRAWN, count)
  draw = jax.jit(lambda key: jax.random.normal(key, (size, width)))
  for start in range(0, count, size):
    block = np.asarray(draw(jax.random.key(seed + start)))
    part = rows_MD[start : start + size]
    part[:] = block[: len(part)]
  return rows_MD


def _prepare(task: Task, rows_MD: np.ndarray, dtype: str):
  devices = jax.local_devices()
  mesh = jax.make_mesh(
    (len(devices),),
    ('rows',),
    axis_types=(AxisType.Auto,),
    devices=devices,
  )
  return retrieval.prepare(
    rows_MD, task.sizes.search_dims, dtype=dtype, mesh=mesh
  )


def _searches(task: Task, query_QD, database, dtype: str) -> None:
  sizes = task.sizes
  seconds = {}
  task.unit = 0

  def nearest(dim):
    search = lambda query_QD: retrieval.search(query_QD, database, 1, dim=dim)
    row, _ = _timed(search, query_QD)
    seconds[dim] = row['s']
    tera = 2e-12 * len(query_QD) * sizes.rows * dim
    return {'dim': dim, **row, 'TFLOP/s': tera / row['s']}

  for dim in sizes.search_dims:
    task.attempt(f'1-NN @{dim}, {dtype}', lambda dim=dim: nearest(dim))
  if len(seconds) == len(sizes.search_dims):
    task.attempt(
      f'1-NN at all {len(seconds)} widths, {dtype}',
      lambda: {'s': sum(seconds.values())},
      always=True,
    )
  first, *_, last = sizes.search_dims
  first = min(max(first, 16), last)
  task.attempt(
    f'adaptive {first} → {last}, {dtype}',
    lambda: _adaptive(task, query_QD, database, first),
  )


def _adaptive(task: Task, query_QD, database, first: int) -> dict[str, Any]:
  """Adaptive search beside exact search of the same number of neighbours."""
  sizes = task.sizes
  adaptive = lambda query_QD: retrieval.adaptive(
    query_QD,
    database,
    _K,
    shortlist_dim=first,
    rerank_dim=sizes.width,
    shortlist=sizes.shortlist,
  )
  exact = lambda query_QD: retrieval.search(query_QD, database, _K)
  row, found = _timed(adaptive, query_QD)
  exact_row, _ = _timed(exact, query_QD)
  return {
    'k': _K,
    **row,
    'MFLOPs/query': found.cost.mflops,
    'exact s': exact_row['s'],
    'exact / adaptive': exact_row['s'] / row['s'],
  }


def _timed(search, query_QD: np.ndarray) -> tuple[dict[str, float], Any]:
  """Times a search of all queries after that of one block."""
  start = time.perf_counter()
  search(query_QD[:_BLOCK])
  first = time.perf_counter() - start
  start = time.perf_counter()
  found = search(query_QD)
  seconds = time.perf_counter() - start
  row = {
    'queries': len(query_QD),
    's': seconds,
    'queries/s': len(query_QD) / seconds,
    'first block s': first,
  }
  return row, found
