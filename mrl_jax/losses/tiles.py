"""Nested logits tile by tile, in Pallas: they never reach the memory.

`statistics` gives what the loss needs of the logits, `gradient` the gradient of
the loss by them. Each program makes one tile of rows and classes at every
granularity, accumulating in float32. Layouts are those of `product.Spec`.

Products have the platform's default precision, as `jnp.matmul`. Columns are
read by the chunk, those beyond a prefix times zero: an infinity among them
makes the prefix NaN too.

On GPUs this is Pallas's Triton backend, which jax 0.12 deprecates; on TPUs,
Mosaic. It has been compiled for both, and run on neither.
"""

from collections.abc import Callable
import functools

import jax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

# Eight warps: with four, `statistics` spills from an H100's registers.
_COMPILER_PARAMS = {
  'cuda': plgpu.CompilerParams(num_warps=8, num_stages=3),
  'tpu': pltpu.CompilerParams(dimension_semantics=('parallel', 'parallel')),
}
# The platform whose code `interpret` runs.
_INTERPRETED = 'cuda'


def statistics(
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  bias: jax.Array,
  label_N: jax.Array,
  *,
  dims: tuple[int, ...],
  shared: bool,
  block_rows: int = 64,
  block_classes: int = 128,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Log-sum-exp, label's logit and mean logit, each float32 [G, N].

  Args:
    embedding_ND: float32 or bfloat16; columns from `dims[-1]` on are not read.
    kernel_RC: of the same dtype; R is `sum(dims)`, or `dims[-1]` if shared.
    bias: `[G, C]`, or `[C]` if shared.
    label_N: int classes in [0, C).
    dims: prefix widths, strictly increasing.
    shared: see `product.Spec`.
    block_rows: rows of a tile, a power of two from 16 on; 128 at least on TPU.
    block_classes: classes of a tile, likewise.
    interpret: run on CPU, slowly, for tests.
  """
  N, C, G = len(embedding_ND), kernel_RC.shape[-1], len(dims)

  def write(g, logits_CN, class_CN, platform, label_1N, partial_ref):
    del platform  # Padding's rows are written too, and cut off below.
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
    spec = pl.BlockSpec((None, G, 4, rows), lambda i, j: (j, 0, 0, i))
    return jax.ShapeDtypeStruct(shape, jnp.float32), spec

  def combine(partial_TGSN):
    partial_STGN = jnp.moveaxis(partial_TGSN[..., :N], 2, 0)
    max_TGN, exp_TGN, label_TGN, sum_TGN = partial_STGN
    max_GN = max_TGN.max(0)
    exp_GN = (jnp.exp(max_TGN - max_GN[None]) * exp_TGN).sum(0)
    return max_GN + jnp.log(exp_GN), label_TGN.sum(0), sum_TGN.sum(0) / C

  operands = (embedding_ND, kernel_RC, bias, label_N[None, :])
  blocks = (block_rows, block_classes)
  return _run(write, output, combine, operands, dims, shared, blocks, interpret)


def gradient(
  embedding_ND: jax.Array,
  kernel_RC: jax.Array,
  bias: jax.Array,
  label_N: jax.Array,
  lse_GN: jax.Array,
  cotangent_GN: jax.Array,
  *,
  dims: tuple[int, ...],
  shared: bool,
  label_smoothing: float,
  num_classes: int,
  dtype: jnp.dtype,
  block_rows: int = 64,
  block_classes: int = 128,
  interpret: bool = False,
) -> jax.Array:
  """The cross-entropy's gradient by the logits, [G, N, C] in `dtype`.

  It is `cotangent * (softmax - target)` with the target of
  `losses.cross_entropy` over `num_classes`, of which the kernel may hold a part
  (labels outside it are of no class here). `lse_GN` is from `statistics`, which
  has the other arguments; `cotangent_GN` is the cotangent of the loss of each
  example at each granularity.
  """
  N, C, G = len(embedding_ND), kernel_RC.shape[-1], len(dims)

  def write(g, logits_CN, class_CN, platform, label_1N, lse, cotangent, d_ref):
    is_label_CN = class_CN == label_1N[...]
    target_CN = jnp.where(is_label_CN, 1 - label_smoothing, 0.0)
    target_CN += label_smoothing / num_classes
    softmax_CN = jnp.exp(logits_CN - lse[pl.ds(g, 1), :])
    d_CN = cotangent[pl.ds(g, 1), :] * (softmax_CN - target_CN)
    d_NC = d_CN.T.astype(dtype)
    if platform == 'tpu':  # Which crops the last blocks itself.
      d_ref[g] = d_NC
    else:
      inside_NC = (_ids(0, d_NC.shape, 0) < N) & (_ids(1, d_NC.shape, 1) < C)
      plgpu.store(d_ref.at[pl.ds(g, 1)], d_NC[None], mask=inside_NC[None])

  def output(rows, classes):
    spec = pl.BlockSpec((G, rows, classes), lambda i, j: (0, i, j))
    return jax.ShapeDtypeStruct((G, N, C), dtype), spec

  per_row = (label_N[None, :], lse_GN, cotangent_GN)
  operands = (embedding_ND, kernel_RC, bias, *per_row)
  blocks = (block_rows, block_classes)
  keep = lambda d_GNC: d_GNC
  return _run(write, output, keep, operands, dims, shared, blocks, interpret)


def _run(
  write: Callable,
  output: Callable,
  combine: Callable,
  operands: tuple[jax.Array, ...],
  dims: tuple[int, ...],
  shared: bool,
  blocks: tuple[int, int],
  interpret: bool,
):
  """`combine` of what `write` writes, given every tile's logits [C, N].

  Classes come first since TPU keeps what is left of reducing them, one number
  a row, in a row of a register. `output` is the shape and the blocks of what is
  written; operands after the first three are arrays [_, N].
  """

  def run(*operands, platform):
    return combine(
      _call(write, output, operands, dims, shared, blocks, platform, interpret)
    )

  if interpret:
    return run(*operands, platform=_INTERPRETED)
  return jax.lax.platform_dependent(
    *operands,
    **{p: functools.partial(run, platform=p) for p in _COMPILER_PARAMS},
  )


def _call(write, output, operands, dims, shared, blocks, platform, interpret):
  """The Pallas call for one platform; see `_run`."""
  embedding_ND, kernel_RC, bias, *rows = operands
  block_rows, block_classes = blocks
  chunk = 128 // embedding_ND.dtype.itemsize  # One cache line.
  if platform == 'tpu':
    # Its registers' width: the least that blocks' and slices' columns may be.
    block_rows, block_classes = max(block_rows, 128), max(block_classes, 128)
    chunk = 128
  embedding_NK = _pad(embedding_ND[:, : dims[-1]], block_rows, chunk)
  kernel_CK, pieces = _pack(kernel_RC, dims, shared, chunk)
  kernel_CK = _pad(kernel_CK, block_classes, 1)
  shape_CG = (kernel_RC.shape[1], len(dims))
  bias_CG = jnp.broadcast_to(jnp.atleast_2d(bias).T, shape_CG)
  tile = (block_classes, block_rows)

  def kernel(embedding_ref, kernel_ref, bias_ref, *refs):
    logits_CN, end = jnp.zeros(tile, jnp.float32), 0
    for g, (first, count) in enumerate(pieces):

      def add(k, logits_CN, first=first, end=end):
        return logits_CN + jax.lax.dot_general(
          _chunk(kernel_ref, end + k, chunk),
          _chunk(embedding_ref, first + k, chunk),
          (((1,), (1,)), ((), ())),
          preferred_element_type=jnp.float32,
        )

      if not shared:
        logits_CN = jnp.zeros(tile, jnp.float32)
      logits_CN = jax.lax.fori_loop(0, count, add, logits_CN)
      end += count
      biased_CN = logits_CN + bias_ref[:, pl.ds(g, 1)]
      write(g, biased_CN, _ids(1, tile, 0), platform, *refs)

  out_shape, out_spec = output(block_rows, block_classes)
  return pl.pallas_call(
    kernel,
    out_shape,
    grid=(len(embedding_NK) // block_rows, len(kernel_CK) // block_classes),
    in_specs=[
      pl.BlockSpec((block_rows, embedding_NK.shape[1]), lambda i, j: (i, 0)),
      pl.BlockSpec((block_classes, kernel_CK.shape[1]), lambda i, j: (j, 0)),
      pl.BlockSpec((block_classes, len(dims)), lambda i, j: (j, 0)),
      *(pl.BlockSpec((len(x), block_rows), lambda i, j: (0, i)) for x in rows),
    ],
    out_specs=out_spec,
    compiler_params=_COMPILER_PARAMS[platform],
    interpret=interpret,
  )(
    embedding_NK,
    kernel_CK,
    _pad(bias_CG.astype(jnp.float32), block_classes, 1),
    *(_pad(x, 1, block_rows) for x in rows),
  )


def _chunk(ref, index, size: int) -> jax.Array:
  return ref[:, pl.ds(pl.multiple_of(index * size, size), size)]


def _ids(axis: int, shape: tuple[int, int], dimension: int) -> jax.Array:
  """Which rows (axis 0) or classes (axis 1) lie along a tile's dimension."""
  first = pl.program_id(axis) * shape[dimension]
  return first + jax.lax.broadcasted_iota(jnp.int32, shape, dimension)


def _pack(
  kernel_RC: jax.Array, dims: tuple[int, ...], shared: bool, chunk: int
) -> tuple[jax.Array, list[tuple[int, int]]]:
  """The kernel in whole chunks, and `(first, count)` of each granularity's.

  `first` counts the embedding's chunks, the kernel's come one after the other.
  A segment is padded by zeros to the chunks it touches: matrix units multiply
  no fewer than 16 columns.
  """
  starts = (0, *dims[:-1]) if shared else (0,) * len(dims)
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
  """Zeros behind every axis, up to a multiple."""
  shape = zip(x.shape, multiples, strict=True)
  return jnp.pad(x, [(0, -n % m) for n, m in shape])
