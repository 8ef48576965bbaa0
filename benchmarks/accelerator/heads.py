"""The nested heads with their loss: XLA, Pallas's tiles, and PyTorch's loop.

Forward and backward. PyTorch has `torch.compile` of the reference's loop over
the prefixes, under autocast.
"""

import functools
from typing import Any

import jax

from benchmarks import head
from benchmarks.accelerator import peers
from benchmarks.accelerator import programs
from benchmarks.accelerator import rounds
from benchmarks.accelerator.task import line
from benchmarks.accelerator.task import Task
from mrl_jax import nesting
from mrl_jax.losses import fused

# Drawing the largest takes seconds.
_arrays = functools.lru_cache(maxsize=3)(head.arrays)
# FF comes first, as the others are compared with it.
KINDS = head.KINDS
_TILED = ('MRL', 'MRL-E')


def run(task: Task) -> None:
  for shape in task.sizes.heads:
    task.attempt(_title(*shape), lambda shape=shape: _heads(task, *shape))
  # Last, as a fault in a kernel would take the process's device with it.
  for shape in task.sizes.heads:
    for name in _TILED:
      task.attempt(
        f'{name}, tiles, {_title(*shape)}',
        lambda name=name, shape=shape: _tiles(task, name, *shape),
      )


def _title(N: int, D: int, C: int) -> str:
  return f'{N} x {D} x {C}'


def _dims(name: str, D: int) -> tuple[int, ...]:
  return (D,) if name == 'FF' else nesting.doubling(8, D)


def _ours(
  task: Task, name: str, shape: tuple[int, int, int], kernel: str
) -> tuple[rounds.Steps, programs.Program, Any]:
  """Calls of forward with backward, the program, and its result."""
  N, D, C = shape
  kind, dims = KINDS[name], _dims(name, D)
  spec = fused.Spec(
    dims, shared=kind != 'mrl', dtype=task.sizes.dtype, kernel=kernel
  )
  _, gradients = head.functions_of(spec)
  arrays = jax.device_put(_arrays(kind, dims, N, C))
  program = programs.compile_(task.sizes, jax.jit(gradients), *arrays)
  call = lambda: program.call(*arrays)
  return rounds.repeated(call), program, call()


def _peer(task: Task, name: str, shape: tuple[int, int, int]) -> rounds.Steps:
  from benchmarks import torch_head

  N, D, C = shape
  kind, dims = KINDS[name], _dims(name, D)
  _, step = torch_head.steps(
    kind,
    dims,
    _arrays(kind, dims, N, C),
    bfloat16=task.sizes.dtype == 'bfloat16',
    compiled=peers.compiled,
  )

  def run(n):
    for _ in range(n):
      step()
    peers.wait()

  run(1)  # Compiles.
  return run


def _heads(task: Task, *shape: int) -> list[dict[str, Any]]:
  peers.forget()
  functions, about = {}, {}
  for name in KINDS:
    functions[name], program, _ = _ours(task, name, shape, 'xla')
    about[name] = program.about
  for name in KINDS if peers.device() else ():
    try:
      functions[name, 'peer'] = _peer(task, name, shape)
    # Ours are measured all the same.
    except Exception as error:
      about[name]['peer fault'] = line(error)
  ms = rounds.alternate(functions, task.sizes)
  rows = []
  for name in KINDS:
    row = {
      'item': f'{name}, {_title(*shape)}',
      'ms': ms[name],
      'x FF': ms[name] / ms['FF'],
      'TFLOP/s': _operations(name, *shape) / ms[name] / 1e9,
    }
    if (name, 'peer') in ms:
      row['peer ms'] = ms[name, 'peer']
      row['peer / ours'] = ms[name, 'peer'] / ms[name]
    rows.append(row | about[name])
  return rows


def _operations(name: str, N: int, D: int, C: int) -> int:
  """Of the three products of forward and backward."""
  rows = sum(_dims(name, D)) if name == 'MRL' else D
  return 3 * 2 * N * rows * C


def _tiles(task: Task, name: str, *shape: int) -> dict[str, Any]:
  """Pallas beside XLA, with the difference between their losses."""
  # Tiles are for accelerators; elsewhere an interpreter runs them.
  kernel = 'pallas' if jax.default_backend() != 'cpu' else 'interpret'
  tiles, program, ((loss, _), _) = _ours(task, name, shape, kernel)
  blocks, _, ((expected, _), _) = _ours(task, name, shape, 'xla')
  ms = rounds.alternate({'tiles': tiles, 'xla': blocks}, task.sizes)
  return {
    'ms': ms['tiles'],
    'xla ms': ms['xla'],
    'xla / tiles': ms['xla'] / ms['tiles'],
    'loss off by, %': 100 * abs(float(loss / expected) - 1),
    **program.about,
  }
