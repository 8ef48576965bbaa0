"""Losses of heads, and the contrastive loss, with their gradients."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks.compiled import work
from benchmarks.compiled.program import make_mesh
from benchmarks.compiled.program import placed
from benchmarks.compiled.program import Program
from benchmarks.compiled.program import Programs
from benchmarks.head import KINDS
from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import fused
from mrl_jax.losses.product import block_bytes

_ROWS = {'tpu': 128, 'gpu': 64}  # Of a tile.
_HOW = {'xla': '', 'pallas': ', tiles', 'apart': ', a product each'}


def programs(args, devices: Sequence[Any]) -> Programs:
  """The heads at each size, then the contrastive loss.

  On several chips the batch is split over them. Tiles are of one chip.
  """
  mesh = make_mesh(devices)
  for N, D, C in args.heads:
    rows = [(name, kernel) for name in KINDS for kernel in ('xla', 'pallas')]
    for name, kernel in (*rows, ('MRL', 'apart')):
      if kernel == 'pallas' and (mesh.size > 1 or name == 'FF'):
        continue
      yield (
        f'{name}{_HOW[kernel]}, {N} x {D} x {C}',
        functools.partial(_head, args, mesh, KINDS[name], (N, D, C), kernel),
      )
  N, D = args.contrastive
  make = functools.partial(_contrastive, args, mesh)
  yield f'contrastive, {N} x {D}', make


def _head(args, mesh, kind, sizes, kernel) -> Program:
  N, D, C = sizes
  dims = nesting.doubling(8, D)
  dims = dims[-1:] if kind == 'fixed' else dims
  rows = sum(dims) if kind == 'mrl' else D
  dtype = jnp.dtype(args.dtype)
  spec = None
  if kernel != 'apart':
    platform = mesh.devices.flat[0].platform
    size = args.block_mib << 20 if args.block_mib else block_bytes(platform)
    spec = fused.Spec(
      dims,
      shared=kind != 'mrl',
      dtype=dtype,
      kernel=kernel,
      block_bytes=size,
    )

  def loss_fn(embedding_ND, kernel_RC, bias, label_N):
    arrays = embedding_ND, kernel_RC, bias, label_N
    if spec is None:
      loss_GN = _apart(dims, dtype, *arrays)
    else:
      loss_GN = fused.cross_entropy(spec, *arrays)
    return losses.weighted_sum(loss_GN)

  bias = (len(dims), C) if kind == 'mrl' else (C,)
  return Program(
    jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1, 2), has_aux=True)),
    (
      placed(mesh, (N * mesh.size, D), jnp.float32, 'data'),
      placed(mesh, (rows, C), jnp.float32),
      placed(mesh, bias, jnp.float32),
      placed(mesh, (N * mesh.size,), jnp.int32, 'data'),
    ),
    N * mesh.size,
    operations=3.0 * 2 * N * mesh.size * rows * C,
    tiles=functools.partial(_tiles, _ROWS[mesh.devices.flat[0].platform])
    if kernel == 'pallas'
    else None,
  )


def _tiles(rows: int, operands, results) -> work.Work:
  """The work of one call of `losses.tiles`, which goes over tiles row by row.

  A row of tiles keeps its embeddings, and reads the whole kernel.
  """
  embedding_NK, kernel_CK, bias_CG, *_ = operands
  (N, _), (C, K) = embedding_NK.shape, kernel_CK.shape
  again = N // rows - 1
  moved = sum(x.bytes for x in (*operands, *results))
  moved += again * (kernel_CK.bytes + bias_CG.bytes)
  return work.Work(2.0 * N * C * K, moved, moved)


def _apart(dims, dtype, embedding_ND, kernel_RC, bias_GC, label_N):
  """The plain loop: a product and a cross-entropy for each prefix."""
  loss_GN, start = [], 0
  for g, m in enumerate(dims):
    logits_NC = jnp.matmul(
      embedding_ND[:, :m].astype(dtype),
      kernel_RC[start : start + m].astype(dtype),
      preferred_element_type=jnp.float32,
    )
    logits_GNC = (logits_NC + bias_GC[g][None])[None]
    loss_GN.append(losses.cross_entropy(logits_GNC, label_N))
    start += m
  return jnp.concatenate(loss_GN)


def _contrastive(args, mesh) -> Program:
  N, D = args.contrastive
  dims = nesting.doubling(12, D)
  loss_fn = functools.partial(
    losses.matryoshka_contrastive, nesting_dims=dims, temperature=0.1
  )
  if mesh.size > 1:
    over, whole = PartitionSpec('data'), PartitionSpec()
    loss_fn = jax.shard_map(
      functools.partial(loss_fn, axis_name='data'),
      mesh=mesh,
      in_specs=(over, over),
      out_specs=(whole, whole),
    )
  total = N * mesh.size
  array = placed(mesh, (total, D), args.dtype, 'data')
  return Program(
    jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)),
    (array, array),
    total,
    operations=3.0 * 2 * total**2 * D,
  )
