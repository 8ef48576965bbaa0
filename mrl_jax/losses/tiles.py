"""Pallas kernels for nested heads, whose logits never reach main memory.

`statistics` returns what the loss needs of the logits, and `gradient` the
gradient of the loss by them. Each program computes one tile of rows and classes
at every granularity, and accumulates in float32.

Products have the platform's default precision, as in `jnp.matmul`. Columns are
read in chunks, and those beyond a prefix are multiplied by zero: an infinity
among them makes the prefix NaN, too. GPUs run this through Pallas's Triton
backend, which jax 0.12 deprecates, TPUs through Mosaic. It has been compiled
for both, and run on neither.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

from mrl_jax.losses.product import Spec

# Eight warps: with four, `statistics` spills from an H100's registers.
_COMPILER_PARAMS = {
  'cuda': plgpu.CompilerParams(num_warps=8, num_stages=3),
  'tpu': pltpu.CompilerParams(dimension_semantics=('parallel', 'parallel')),
}
# The platform whose code runs where `Spec.kernel` is `interpret`.
_INTERPRETED = 'cuda'


class Tile(NamedTuple):
  """The size of a tile: powers of two from 16 on; at least 128 on a TPU."""

  rows: int
  classes: int


_TILE = Tile(64, 128)


class _Kernel(NamedTuple):
  """The work of a kernel on a tile's logits.

  `write` is called with a granularity, its logits [C, N], their classes' ids,
  the platform, and references to the arrays by row and to the result. `output`
  gives the result's shape and blocks for a tile's number of rows and classes.
  `combine` turns the result into what is returned.
  """

  write: Callable
  output: Callable
  combine: Callable = lambda result: result


def statistics(
  spec: Spec,
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  bias: jax.Array,
  label_N: jax.Array,
  *,
  tile: Tile = _TILE,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Log-sum-exp, label's logit and mean logit, each float32 [G, N].

  Labels are in [0, C); `Spec` describes the other arrays.
  """
  N, C, G = len(embedding_ND), kernel_RC.shape[-1], len(spec.dims)

  def write(g, logits_CN, class_CN, platform, label_1N, partial_ref):
    del platform  # The padding's rows are written, and cut off in `combine`.
    is_class_CN = class_CN < C
    is_label_CN = class_CN == label_1N[...]
    max_N = jnp.where(is_class_CN, logits_CN, -jnp.inf).max(0)
    exp_CN = jnp.exp(logits_CN - max_N[None, :])
    partial_ref[g, 0, :] = max_N
    partial_ref[g, 1, :] = jnp.where(is_class_CN, exp_CN, 0.0).sum(0)
    partial_ref[g, 2, :] = jnp.where(is_label_CN, logits_CN, 0.0).sum(0)
    partial_ref[g, 3, :] = jnp.where(is_class_CN, logits_CN, 0.0).sum(0)

  def output(rows, classes):
    shape = (pl.cdiv(C, classes), G, 4, pl.cdiv(N, rows) * rows)
    blocks = pl.BlockSpec((None, G, 4, rows), lambda i, j: (j, 0, 0, i))
    return jax.ShapeDtypeStruct(shape, jnp.float32), blocks

  def combine(partial_TGSN):
    partial_STGN = jnp.moveaxis(partial_TGSN[..., :N], 2, 0)
    max_TGN, exp_TGN, label_TGN, sum_TGN = partial_STGN
    max_GN = max_TGN.max(0)
    exp_GN = (jnp.exp(max_TGN - max_GN[None]) * exp_TGN).sum(0)
    return max_GN + jnp.log(exp_GN), label_TGN.sum(0), sum_TGN.sum(0) / C

  operands = (embedding_ND, kernel_RC, bias, label_N[None, :])
  return _run(_Kernel(write, output, combine), spec, operands, tile)


def gradient(
  spec: Spec,
  inputs: Sequence[jax.Array],
  lse_GN: jax.Array,
  cotangent_GN: jax.Array,
  *,
  num_classes: int,
  tile: Tile = _TILE,
) -> jax.Array:
  """The loss's gradient by the logits, [G, N, C] in the spec's dtype.

  It is `cotangent * (softmax - target)`, with the target of
  `losses.cross_entropy` over `num_classes`.

  Args:
    spec: the heads.
    inputs: the arrays of `statistics`. The kernel may hold only some of the
      `num_classes`; labels count from its first class, and may lie outside.
    lse_GN: the log-sum-exp over all classes.
    cotangent_GN: cotangent of each example's loss at each granularity.
    num_classes: number of classes.
    tile: the size of a tile.
  """
  embedding_ND, kernel_RC, bias, label_N = inputs
  N, C, G = len(embedding_ND), kernel_RC.shape[-1], len(spec.dims)
  smoothing = spec.label_smoothing

  def write(g, logits_CN, class_CN, platform, *refs):
    label_1N, lse, cotangent, d_ref = refs
    is_label_CN = class_CN == label_1N[...]
    target_CN = jnp.where(is_label_CN, 1 - smoothing, 0.0)
    target_CN += smoothing / num_classes
    softmax_CN = jnp.exp(logits_CN - lse[pl.ds(g, 1), :])
    d_CN = cotangent[pl.ds(g, 1), :] * (softmax_CN - target_CN)
    d_NC = d_CN.T.astype(spec.dtype)
    if platform == 'tpu':  # Mosaic crops the last blocks itself.
      d_ref[g] = d_NC
    else:
      inside_NC = (_ids(0, d_NC.shape, 0) < N) & (_ids(1, d_NC.shape, 1) < C)
      plgpu.store(d_ref.at[pl.ds(g, 1)], d_NC[None], mask=inside_NC[None])

  def output(rows, classes):
    blocks = pl.BlockSpec((G, rows, classes), lambda i, j: (0, i, j))
    return jax.ShapeDtypeStruct((G, N, C), spec.dtype), blocks

  rows = (label_N[None, :], lse_GN, cotangent_GN)
  operands = (embedding_ND, kernel_RC, bias, *rows)
  return _run(_Kernel(write, output), spec, operands, tile)


def _run(kernel: _Kernel, spec: Spec, operands, tile: Tile):
  """Runs a kernel; operands after the first three are arrays [_, N].

  A tile's logits are [C, N]: a TPU keeps what is left of reducing the first
  axis, one number a row, in a row of a register.
  """

  def run(*operands, platform):
    return kernel.combine(_call(kernel, spec, operands, tile, platform))

  if spec.kernel == 'interpret':
    return run(*operands, platform=_INTERPRETED)
  return jax.lax.platform_dependent(
    *operands,
    **{p: functools.partial(run, platform=p) for p in _COMPILER_PARAMS},
  )


def _call(kernel: _Kernel, spec: Spec, operands, tile: Tile, platform: str):
  """The Pallas call for one platform; see `_run`."""
  embedding_ND, kernel_RC, bias, *rows = operands
  dims = spec.dims
  chunk = 128 // jnp.dtype(spec.dtype).itemsize  # One cache line.
  if platform == 'tpu':
    # A register's width: the least number of columns of a block or slice.
    tile = Tile(max(tile.rows, 128), max(tile.classes, 128))
    chunk = 128
  embedding_ND = embedding_ND[:, : dims[-1]].astype(spec.dtype)
  embedding_NK = _pad(embedding_ND, tile.rows, chunk)
  kernel_CK, pieces = _pack(kernel_RC.astype(spec.dtype), spec, chunk)
  kernel_CK = _pad(kernel_CK, tile.classes, 1)
  shape_CG = (kernel_RC.shape[1], len(dims))
  bias_CG = jnp.broadcast_to(jnp.atleast_2d(bias).T, shape_CG)
  shape_CN = (tile.classes, tile.rows)
  columns = lambda k: pl.ds(pl.multiple_of(k * chunk, chunk), chunk)

  def program(embedding_ref, kernel_ref, bias_ref, *refs):
    logits_CN, end = jnp.zeros(shape_CN, jnp.float32), 0
    for g, (first, count) in enumerate(pieces):

      def add(k, logits_CN, first=first, end=end):
        return logits_CN + jax.lax.dot_general(
          kernel_ref[:, columns(end + k)],
          embedding_ref[:, columns(first + k)],
          (((1,), (1,)), ((), ())),
          preferred_element_type=jnp.float32,
        )

      if not spec.shared:
        logits_CN = jnp.zeros(shape_CN, jnp.float32)
      logits_CN = jax.lax.fori_loop(0, count, add, logits_CN)
      end += count
      biased_CN = logits_CN + bias_ref[:, pl.ds(g, 1)]
      kernel.write(g, biased_CN, _ids(1, shape_CN, 0), platform, *refs)

  out_shape, out_blocks = kernel.output(*tile)
  return pl.pallas_call(
    program,
    out_shape,
    grid=(len(embedding_NK) // tile.rows, len(kernel_CK) // tile.classes),
    in_specs=[
      pl.BlockSpec((tile.rows, embedding_NK.shape[1]), lambda i, j: (i, 0)),
      pl.BlockSpec((tile.classes, kernel_CK.shape[1]), lambda i, j: (j, 0)),
      pl.BlockSpec((tile.classes, len(dims)), lambda i, j: (j, 0)),
      *(pl.BlockSpec((len(x), tile.rows), lambda i, j: (0, i)) for x in rows),
    ],
    out_specs=out_blocks,
    compiler_params=_COMPILER_PARAMS[platform],
    interpret=spec.kernel == 'interpret',
  )(
    embedding_NK,
    kernel_CK,
    _pad(bias_CG.astype(jnp.float32), tile.classes, 1),
    *(_pad(x, 1, tile.rows) for x in rows),
  )


def _ids(axis: int, shape: tuple[int, int], dimension: int) -> jax.Array:
  """Ids of the rows (axis 0) or classes (axis 1) along a tile's dimension."""
  first = pl.program_id(axis) * shape[dimension]
  return first + jax.lax.broadcasted_iota(jnp.int32, shape, dimension)


def _pack(
  kernel_RC: jax.Array, spec: Spec, chunk: int
) -> tuple[jax.Array, list[tuple[int, int]]]:
  """Packs the kernel in whole chunks of rows, one granularity after the other.

  Returns it transposed, and for each granularity the first of the embedding's
  chunks that it multiplies, and their number. Zeros fill a segment up to whole
  chunks: matrix units multiply no fewer than 16 columns.
  """
  dims = spec.dims
  starts = (0, *dims[:-1]) if spec.shared else (0,) * len(dims)
  pieces, segments, row = [], [], 0
  for start, end in zip(starts, dims, strict=True):
    first, last = start // chunk, pl.cdiv(end, chunk)
    pieces.append((first, last - first))
    pads = (start - first * chunk, last * chunk - end)
    rows = kernel_RC[row : row + end - start]
    segments.append(jnp.pad(rows, (pads, (0, 0))))
    row += end - start
  return jnp.concatenate(segments).T, pieces


def _pad(x: jax.Array, *multiples: int) -> jax.Array:
  """Pads the end of every axis with zeros, up to a multiple."""
  shape = zip(x.shape, multiples, strict=True)
  return jnp.pad(x, [(0, -n % m) for n, m in shape])
