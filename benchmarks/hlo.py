"""Reads the text of a compiled program: its instructions and their arrays."""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re
from typing import NamedTuple

# What an instruction does that moves nothing.
_FREE = {
  'after-all', 'bitcast', 'call', 'conditional', 'constant',
  'get-tuple-element', 'iota', 'opt-barrier', 'parameter', 'partition-id',
  'replica-id', 'tuple', 'while',
}  # fmt: skip
_BYTES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 'bf16': 2, 'f16': 2}
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?')
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$'
)
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\{$')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Array(NamedTuple):
  """An array of an instruction; `near` if it lies in a TPU's fast memory."""

  dtype: str
  shape: tuple[int, ...]
  near: bool

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def bytes(self) -> float:
    width = re.search(r'\d+', self.dtype)
    default = (
      int(width[0]) / 8 if width else 0
    )  # token[] and opaque[] have none.
    return self.size * _BYTES.get(self.dtype, default)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation; `rest` is what follows the parenthesis."""

  name: str
  result: str
  opcode: str
  rest: str
  is_root: bool

  @functools.cached_property
  def arrays(self) -> list[Array]:
    return arrays(self.result)

  @functools.cached_property
  def operands(self) -> list[str]:
    depth, end = 1, len(self.rest)
    for i, letter in enumerate(self.rest):
      depth += (letter in '({') - (letter in ')}')
      if not depth:
        end = i
        break
    return re.findall(r'%([\w.\-$]+)', self.rest[:end])

  @property
  def is_free(self) -> bool:
    """Whether it moves nothing itself: its array is another's, or later."""
    return self.opcode in _FREE or self.opcode.endswith('-done')

  @property
  def written(self) -> list[Array]:
    """The arrays that it writes."""
    if self.opcode == 'copy-start':
      return self.arrays[:1]
    if self.opcode.endswith('-start') and len(self.arrays) > 1:
      return self.arrays[1:2]
    return self.arrays

  @property
  def parameter(self) -> int:
    """The number of a parameter."""
    return int(self.rest.split(')')[0])

  def attribute(self, name: str) -> str | None:
    """The computation, or the plain word, that an attribute names."""
    match = re.search(rf'\b{name}=%?"?([\w.\-$]+)', self.rest)
    return match and match[1]

  @property
  def operation(self) -> str:
    """The path of the JAX operation that it comes from."""
    match = re.search(r'op_name="([^"]*)"', self.rest)
    return match[1] if match else ''


def arrays(text: str) -> list[Array]:
  return [
    Array(
      dtype, tuple(map(int, filter(None, shape.split(',')))), 'S(1)' in layout
    )
    for dtype, shape, layout in _ARRAY.findall(text)
  ]


class Module:
  """The computations of a compiled program.

  Attributes:
    computations: the instructions of each computation, by its name.
    entry: the name of the first that runs.
    aliased: the numbers of the parameters whose memory is used for results.
  """

  def __init__(self, text: str):
    self.computations, self.entry = {}, ''
    self._text, current = text, None
    for line in text.splitlines():
      if match := _COMPUTATION.match(line):
        current = self.computations.setdefault(match[1], [])
        if line.startswith('ENTRY'):
          self.entry = match[1]
      elif current is not None and (match := _INSTRUCTION.match(line)):
        is_root = line.lstrip().startswith('ROOT')
        current.append(Instruction(*match.groups(), is_root))
    header = text[: text.find('\n')]
    self.aliased = {
      int(x)
      for x in re.findall(r'\}: \((\d+), \{[\d, ]*\}, (?:may|must)', header)
    }

  def __iter__(self) -> Iterator[Instruction]:
    for instructions in self.computations.values():
      yield from instructions

  @functools.cached_property
  def materialized(self) -> list[str]:
    """The computations whose arrays are in memory: those that run in steps.

    What a fusion or a reduction calls lives in registers.
    """
    inside = set()
    for instruction in self:
      if instruction.opcode == 'fusion':
        inside.add(instruction.attribute('calls'))
      inside.add(instruction.attribute('to_apply'))
    return [name for name in self.computations if name not in inside]

  @functools.cached_property
  def trips(self) -> dict[str, int]:
    """How often each computation of the program's steps runs; 0: not one."""
    trips = dict.fromkeys(self.computations, 0)

    def visit(name, times):
      trips[name] += times
      for step in self.computations[name]:
        if step.opcode == 'while':
          visit(step.attribute('body'), times * self._trips(step))
        elif step.opcode == 'conditional':
          for branch in re.findall(
            r'%([\w.\-]+)', step.rest.split('),', 1)[-1]
          ):
            if branch in self.computations:
              visit(branch, times)
        elif step.opcode == 'call':
          visit(step.attribute('to_apply'), times)
        elif step.opcode.endswith('-start') and step.attribute('calls'):
          visit(step.attribute('calls'), times)

    visit(self.entry, 1)
    return trips

  def _trips(self, loop: Instruction) -> int:
    if match := _TRIPS.search(loop.rest):
      return int(match[1])
    # The bound is a constant of the condition, or of what that calls.
    names, bounds = [loop.attribute('condition')], [1]
    while names:
      for step in self.computations[names.pop()]:
        if step.opcode == 'constant' and step.result.startswith('s32[]'):
          bounds.append(int(step.rest.split(')')[0]))
        called = step.attribute('calls')
        names += [called] if called else []
    return max(bounds)

  @functools.cached_property
  def _frames(self) -> dict[int, list[str]]:
    """The files of each stack frame, the innermost first."""
    tables = {}
    for table in ('FileNames', 'FileLocations', 'StackFrames'):
      match = re.search(rf'^{table}\n((?:\d+ .*\n)*)', self._text, re.M)
      lines = match[1].splitlines() if match else []
      tables[table] = {int(x.split(' ', 1)[0]): x for x in lines}
    number = lambda name, line: int(re.search(rf'{name}=(\d+)', line)[1])
    found = {}
    for frame in tables['StackFrames']:
      files, here = [], frame
      while here in tables['StackFrames']:
        line = tables['StackFrames'][here]
        location = tables['FileLocations'][number('file_location_id', line)]
        name = tables['FileNames'][number('file_name_id', location)]
        files.append(name.split('"')[1])
        here = number('parent_frame_id', line) - 1  # It counts from 1 up.
      found[frame] = files
    return found

  def files(self, instruction: Instruction) -> list[str]:
    """The source files that an instruction comes from, innermost first."""
    match = re.search(r'stack_frame_id=(\d+)', instruction.rest)
    return self._frames.get(int(match[1]), []) if match else []
