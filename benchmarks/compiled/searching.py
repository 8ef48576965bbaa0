"""Search in rows that are split over a mesh."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import numpy as jnp

from benchmarks.compiled.program import make_mesh
from benchmarks.compiled.program import placed
from benchmarks.compiled.program import Program
from benchmarks.compiled.program import Programs
from mrl_jax.retrieval.mesh import kernels


def programs(args, devices: Sequence[Any]) -> Programs:
  """The k nearest at a narrow and the full width, and a rerank of K."""
  mesh = make_mesh(devices)
  Q, M, D, k = args.search
  room = -(-M // mesh.size) * mesh.size
  axes = (mesh.axis_names,)
  for dtype in ('float32', 'bfloat16'):
    shards = kernels.Shards(
      placed(mesh, (room, D), dtype, *axes),
      placed(mesh, (room,), jnp.float32, *axes),
      placed(mesh, (mesh.size,), jnp.int32, *axes),
      placed(mesh, (mesh.size,), jnp.int32, *axes),
    )
    for dim in (min(16, D), D):
      program = Program(
        _jitted(kernels.nearest, mesh, k, None, True),
        (placed(mesh, (Q, dim), jnp.float32), shards),
        Q,
        operations=2.0 * Q * room * dim,
      )
      yield f'{k} of {M} x {dim}, {dtype}', lambda program=program: program
    ids_QK = placed(mesh, (Q, k), jnp.int32)
    program = Program(
      _jitted(kernels.rescore, mesh, min(k, 10), True),
      (placed(mesh, (Q, D), jnp.float32), ids_QK, shards),
      Q,
    )
    yield f'rerank {k} at {D}, {dtype}', lambda program=program: program


def _jitted(function, *static):
  return jax.jit(functools.partial(function, *static))
