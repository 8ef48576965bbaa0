"""The kind of work of each instruction of a compiled program, from its text."""

from collections.abc import Collection
import re

COLLECTIVES, CONVOLUTIONS, PRODUCTS = 'collectives', 'convolutions', 'products'
NORMS, COPIES, OTHER = 'norms', 'copies', 'other'
CLASSES = (CONVOLUTIONS, PRODUCTS, NORMS, COPIES, COLLECTIVES, OTHER)

_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.-]+) = (.*)$')
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.-]+) \(.*\{$')
_OPCODE = re.compile(r'(?:^|\s)([a-z][a-z0-9-]*)\(')
_CALLED = re.compile(r'(?:calls|to_apply)=%?([\w.-]+)')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_FRAME = re.compile(r'stack_frame_id=(\d+)')
_NUMBERED = re.compile(r'^(\d+) (.*)$')
_FIELDS = re.compile(r'(\w+)=(\d+)')
_SOURCE = re.compile(r'source_file="([^"]*)"')
_NORM_FILES = ('batch_norm.py', 'normalization.py')
# Of a kernel or an event, where the program's text does not have it.
_NAMES = {
  COLLECTIVES: r'nccl|all-?_?reduce|all-?_?gather|reduce-?_?scatter'
  r'|all-?_?to-?_?all|collective|permute',
  CONVOLUTIONS: r'conv(?!ert)|cudnn|fprop|dgrad|wgrad|implicit',
  PRODUCTS: r'gemm|cublas|nvjet|matmul|\bdot|_dot|fmha|flash|attention',
  COPIES: r'memcpy|memset|copy|transpose|data formatting|infeed|outfeed',
  NORMS: r'norm',
}
# Work that is inside them has events of its own.
_CALLERS = ('call', 'while', 'conditional', 'command-buffer')
_MOVES = {'copy', 'transpose', 'bitcast', 'parameter', 'constant', 'tuple'}
_MOVES |= {'get-tuple-element', 'reshape', 'slice', 'pad', 'concatenate'}
_MOVES |= {'copy-start', 'copy-done', 'bitcast-convert', 'dynamic-slice'}


def of_program(text: str) -> dict[str, str]:
  """The class of each instruction, by name, from `compiled.as_text()`.

  A fusion has the class of what it holds that comes first in: collective,
  convolution, product, norm (an operation of BatchNorm or LayerNorm, by the
  file that it is from, with what was fused to it), other. Copies only move.
  """
  files = _files(text)
  bodies: dict[str, list[tuple[str, str]]] = {}
  body: list[tuple[str, str]] = []
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      body = bodies.setdefault(match[1], [])
    elif match := _INSTRUCTION.match(line):
      body.append((match[1], match[2]))
  classes = {}
  for body in bodies.values():
    for name, right in body:
      kind = _class(right, bodies, files)
      if kind:
        classes[name] = kind
  return classes


def of_name(name: str, category: str = '') -> str:
  """The class of an event by its own name, or by the category that it has."""
  for text in (category.lower(), name.lower()):
    for kind, pattern in _NAMES.items():
      if text and re.search(pattern, text):
        return kind
  return OTHER


def _class(right: str, bodies, files: dict[str, str]) -> str:
  """The class of an instruction, given what is right of its name."""
  opcode = _opcode(right)
  if opcode in _CALLERS:
    return ''
  held = [right]
  if opcode == 'fusion' and (match := _CALLED.search(right)):
    held = [text for _, text in bodies.get(match[1], ())] or held
  opcodes = {_opcode(text) for text in held}
  targets = ' '.join(_TARGET.findall(right))
  if any(of_name(x) == COLLECTIVES for x in opcodes):
    return COLLECTIVES
  if 'convolution' in opcodes or 'conv' in targets:
    return CONVOLUTIONS
  if 'dot' in opcodes or of_name(targets) == PRODUCTS:
    return PRODUCTS
  if _is_norm(held, files):
    return NORMS
  return COPIES if opcodes <= _MOVES else OTHER


def _is_norm(held: Collection[str], files: dict[str, str]) -> bool:
  sources = [source for text in held for source in _SOURCE.findall(text)]
  frames = (frame for text in held for frame in _FRAME.findall(text))
  sources += [files.get(frame, '') for frame in frames]
  return any(source.endswith(_NORM_FILES) for source in sources)


def _opcode(right: str) -> str:
  match = _OPCODE.search(right)
  return match[1] if match else ''


def _files(text: str) -> dict[str, str]:
  """The file of each stack frame's innermost call, by the frame's number."""
  tables: dict[str, dict[str, str]] = {}
  table: dict[str, str] = {}
  for line in text.splitlines():
    if line in ('FileNames', 'FunctionNames', 'FileLocations', 'StackFrames'):
      table = tables.setdefault(line, {})
    elif match := _NUMBERED.match(line):
      table[match[1]] = match[2]
  names = tables.get('FileNames', {})
  places = {
    number: names.get(dict(_FIELDS.findall(fields)).get('file_name_id', ''), '')
    for number, fields in tables.get('FileLocations', {}).items()
  }
  return {
    number: places.get(
      dict(_FIELDS.findall(fields)).get('file_location_id', ''), ''
    ).strip('"')
    for number, fields in tables.get('StackFrames', {}).items()
  }
