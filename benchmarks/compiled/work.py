"""What a compiled program multiplies and moves, rounds of loops included."""

from collections.abc import Callable
import functools
import math
import re
from typing import NamedTuple

from benchmarks import hlo

_TILES = ('tpu_custom_call', '__gpu$xla.gpu.triton')
# Custom calls that only name memory.
_LIBRARIES = ('__cudnn', '__cublas')
_NAMES = ('ConcatBitcast', 'AllocateBuffer', 'Sharding')


class Work(NamedTuple):
  """What a step does: operations of products, and bytes.

  `bytes` counts what instructions read and write, `main` only what of it lies
  in main memory.
  """

  operations: float = 0.0
  bytes: float = 0.0
  main: float = 0.0

  def plus(self, other: 'Work', times: int = 1) -> 'Work':
    pairs = zip(self, other, strict=True)
    return Work(*(a + times * b for a, b in pairs))


def of_module(module: hlo.Module) -> tuple[Work, Work]:
  """The work of all rounds of its loops, and with a single round of each.

  Pallas's kernels are left out, of which the text does not tell.
  """
  rounds, once = Work(), Work()
  for name, times in module.trips.items():
    if times:
      here = _of_computation(module, name)
      rounds, once = rounds.plus(here, times), once.plus(here)
  return rounds, once


def in_libraries(module: hlo.Module) -> bool:
  """Whether products are left to a GPU's libraries, and so not counted."""
  names = (x.attribute('custom_call_target') or '' for x in module)
  return any(name.startswith(_LIBRARIES) for name in names)


def excess_of_slices(module: hlo.Module) -> float:
  """Bytes that XLA counts too much: whole arrays where slices are fetched."""
  excess = 0.0
  for name, times in module.trips.items():
    by_name = {x.name: x for x in module.computations[name] if times}
    for step in by_name.values():
      if step.opcode == 'slice-start' and step.operands[0] in by_name:
        whole = by_name[step.operands[0]].arrays[0].bytes
        excess += times * (whole - step.written[0].bytes)
  return excess


def in_tiles(module: hlo.Module, work_of_call: Callable) -> Work:
  """The work of Pallas's kernels, each as `work_of_call(operands, results)`."""
  total = Work()
  for name, times in module.trips.items():
    by_name = {x.name: x for x in module.computations[name] if times}
    for step in by_name.values():
      if step.attribute('custom_call_target') in _TILES:
        operands = [by_name[x].arrays[0] for x in step.operands]
        total = total.plus(work_of_call(operands, step.arrays), times)
  return total


def _of_computation(module: hlo.Module, name: str) -> Work:
  by_name = {x.name: x for x in module.computations[name]}
  total = Work()
  for step in by_name.values():
    if step.is_free:
      continue
    target = step.attribute('custom_call_target') or ''
    if step.opcode == 'custom-call' and target in (*_NAMES, *_TILES):
      continue
    read = _read(module, step, by_name)
    moved = [*read, *_written(module, step, by_name)]
    total = total.plus(
      Work(
        _operations(module, step, by_name),
        sum(size for size, _ in moved),
        sum(size for size, near in moved if not near),
      )
    )
  return total


def _read(module, step, by_name) -> list[tuple[float, bool]]:
  """Bytes of each array that is read, and whether it lies in fast memory."""
  if step.opcode == 'dynamic-update-slice':
    return _sizes(by_name, step.operands[1:2])
  if step.opcode in ('dynamic-slice', 'slice', 'gather'):
    return _sizes(by_name, [step.name])
  if step.opcode == 'copy-start':
    return [(x.bytes, x.near) for x in step.arrays[1:2]]
  if step.opcode.endswith('-start') and len(step.arrays) > 1:
    source = by_name[step.operands[0]].arrays[0] if step.operands else None
    near = bool(source and source.near)
    return [(x.bytes, near) for x in step.written]
  if step.opcode != 'fusion':
    return _sizes(by_name, step.operands)
  called, found = step.attribute('calls'), []
  for inner in module.computations[called]:
    if inner.opcode != 'parameter':
      continue
    operand = by_name.get(step.operands[inner.parameter])
    for array in operand.arrays[:1] if operand else ():
      size = min(array.bytes, _part(module, called, inner.name, array.bytes))
      found.append((size, array.near))
  return found


def _part(module, computation: str, start: str, whole: float) -> float:
  """The bytes that a fusion reads of a parameter: slices, or all of it."""
  total, names = 0.0, [start]
  while names:
    name = names.pop()
    for use in module.computations[computation]:
      if name not in use.operands:
        continue
      if use.opcode == 'bitcast':
        names.append(use.name)
      elif use.opcode in ('dynamic-slice', 'slice'):
        total += sum(x.bytes for x in use.arrays)
      elif use.opcode == 'fusion':
        called = use.attribute('calls')
        for inner in module.computations[called]:
          if (
            inner.opcode == 'parameter'
            and use.operands[inner.parameter] == name
          ):
            total += _part(module, called, inner.name, whole)
      elif use.opcode == 'dynamic-update-slice' and use.operands[0] == name:
        continue  # What is overwritten is not read.
      else:
        return whole
  return total


def _written(module, step, by_name) -> list[tuple[float, bool]]:
  if step.opcode == 'dynamic-update-slice':
    return _sizes(by_name, step.operands[1:2])
  results = [(x.bytes, x.near) for x in step.written]
  if step.opcode != 'fusion':
    return results
  inside = {x.name: x for x in module.computations[step.attribute('calls')]}
  root = next(x for x in inside.values() if x.is_root)
  roots = (
    [inside[x] for x in root.operands] if root.opcode == 'tuple' else [root]
  )
  found = []
  for (size, near), part in zip(results, roots, strict=False):
    while part.opcode == 'bitcast' and part.operands[0] in inside:
      part = inside[part.operands[0]]
    if part.opcode == 'dynamic-update-slice':
      size = sum(x.bytes for x in inside[part.operands[1]].arrays)
    found.append((size, near))
  return found


def _sizes(by_name, names) -> list[tuple[float, bool]]:
  return [
    (x.bytes, x.near)
    for name in names
    if name in by_name
    for x in by_name[name].arrays
  ]


def _operations(module, step, by_name) -> float:
  """Multiplications and additions of the products in an instruction."""
  if step.opcode == 'fusion':
    inside = {x.name: x for x in module.computations[step.attribute('calls')]}
    return sum(_operations(module, x, inside) for x in inside.values())
  if step.opcode not in ('convolution', 'dot'):
    return 0.0
  size = step.arrays[0].size
  left, right = (by_name[x].arrays[0] for x in step.operands[:2])
  if step.opcode == 'dot':
    axes = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', step.rest)[1]
    return (
      2.0 * size * math.prod(left.shape[int(x)] for x in axes.split(',') if x)
    )
  images, kernel, result = re.search(
    r'dim_labels=(\w+)_(\w+)->(\w+)', step.rest
  ).groups()
  window = _window(step.rest)
  total = 2.0 * right.shape[kernel.index('i')]
  total *= math.prod(step.arrays[0].shape[result.index(x)] for x in 'bf')
  for axis, given in window.items():
    total *= _taps(
      left.shape[images.index(axis)],
      right.shape[kernel.index(axis)],
      step.arrays[0].shape[result.index(axis)],
      **given,
    )
  return total


def _window(text: str) -> dict[str, dict[str, int]]:
  """The stride, padding and dilation of a convolution, by spatial axis."""
  match = re.search(r'window=\{([^}]*)\}', text)
  given = dict(x.split('=') for x in match[1].split()) if match else {}
  axes = range(len(given['size'].split('x'))) if given else ()
  default = {'stride': 1, 'pad': '0_0', 'lhs_dilate': 1, 'rhs_dilate': 1}
  found = {}
  for axis in axes:
    here = {
      name: given[name].split('x')[axis] if name in given else value
      for name, value in default.items()
    }
    here['pad'] = here['pad'].split('_')[0]
    found[str(axis)] = {name: int(value) for name, value in here.items()}
  return found


@functools.cache
def _taps(
  inputs: int, taps: int, outputs: int, *, stride, pad, lhs_dilate, rhs_dilate
) -> int:
  """Pairs of outputs and taps along an axis that meet a number of the input."""
  count = 0
  for output in range(outputs):
    for tap in range(taps):
      place = output * stride - pad + tap * rhs_dilate
      count += 0 <= place <= (inputs - 1) * lhs_dilate and not (
        place % lhs_dilate
      )
  return count
