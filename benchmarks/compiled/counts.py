"""What a compiled program sends, and which of its arrays are wide."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import hlo

_COLLECTIVES = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
  'collective-permute', 'collective-broadcast', 'ragged-all-to-all',
)  # fmt: skip
_HOST = ('infeed', 'outfeed', 'send', 'recv')


class Sent(NamedTuple):
  """One kind of message: how often a step sends it, and for whom."""

  kind: str
  whom: str
  count: int
  megabytes: float


def sent(module: hlo.Module) -> list[Sent]:
  """The collectives of a step on one device, by kind and origin.

  Megabytes are those of the result; in a loop, those of all its rounds.
  """
  totals = collections.defaultdict(lambda: [0, 0.0])
  for name, instructions in module.computations.items():
    times = max(module.trips[name], 1)
    for step in instructions:
      kind = step.opcode.removesuffix('-start')
      if kind not in _COLLECTIVES:
        continue
      sizes = [x.bytes for x in step.arrays]
      # The start of a gather or a permute has its operand beside its result.
      paired = step.opcode.endswith('-start') and kind != 'all-reduce'
      total = totals[kind, _whom(module, step)]
      total[0] += times
      total[1] += times * (max(sizes) if paired else sum(sizes)) / 1e6
  return [Sent(*key, *total) for key, total in sorted(totals.items())]


def _whom(module: hlo.Module, step: hlo.Instruction) -> str:
  step = _with_origin(module, step)
  files = module.files(step)
  has = lambda *names: any(x.endswith(names) for x in files)
  if has('models/batch_norm.py', 'linen/normalization.py'):
    return 'BatchNorm'
  if has('losses/contrastive.py'):
    return 'contrastive loss'
  if has('losses/fused.py', 'losses/blocks.py', 'losses/__init__.py'):
    return 'heads and loss'
  if 'transpose(' in step.operation:
    return 'gradients'
  if has('retrieval/mesh/kernels.py'):
    return 'search'
  if any('/optax/' in x for x in files):
    return 'optimizer'
  if any('mrl_jax/models/' in x for x in files):
    return 'encoder'
  return step.operation.split('/')[-1] or 'the compiler'


def _with_origin(module: hlo.Module, step: hlo.Instruction) -> hlo.Instruction:
  """The step, or the first of its operands that says where it comes from."""
  if step.operation:
    return step
  for instructions in module.computations.values():
    if step in instructions:
      by_name = {x.name: x for x in instructions}
      operands = [by_name[x] for x in step.operands if x in by_name]
      return next((x for x in operands if x.operation), step)
  return step


def on_host(module: hlo.Module) -> int:
  """The number of instructions that call or wait for the host."""
  return sum(
    step.opcode in _HOST
    or 'callback' in (step.attribute('custom_call_target') or '')
    for step in module
  )


def of_float64(module: hlo.Module) -> int:
  """The number of float64 arrays, in fusions, too."""
  return sum(x.dtype in ('f64', 'c128') for step in module for x in step.arrays)


def wide(
  module: hlo.Module, least: int, others: Sequence[tuple[int, ...]]
) -> tuple[int, float]:
  """Number and megabytes of the float32 arrays of `least` elements or more.

  Those in memory count, but for the shapes `others`, as of parameters; axes of
  length 1, and their order, are looked over.
  """
  plain = lambda shape: tuple(sorted(x for x in shape if x != 1))
  left_out, found = set(map(plain, others)), []
  for name in module.materialized:
    for step in module.computations[name]:
      if step.is_free:
        continue
      found += [
        x.bytes
        for x in step.written
        if x.dtype == 'f32'
        and x.size >= least
        and plain(x.shape) not in left_out
      ]
  return len(found), sum(found) / 1e6
