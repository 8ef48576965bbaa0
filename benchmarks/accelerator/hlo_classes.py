"""The kind of work of each instruction of a compiled program, from its text."""

from collections.abc import Sequence
import re

from benchmarks import hlo

COLLECTIVES, CONVOLUTIONS, PRODUCTS = 'collectives', 'convolutions', 'products'
NORMS, COPIES, OTHER = 'norms', 'copies', 'other'
CLASSES = (CONVOLUTIONS, PRODUCTS, NORMS, COPIES, COLLECTIVES, OTHER)

_TARGET = re.compile(r'custom_call_target="([^"]*)"')
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
  module = hlo.Module(text)
  classes = {step.name: _class(step, module) for step in module}
  return {name: kind for name, kind in classes.items() if kind}


def of_name(name: str, category: str = '') -> str:
  """The class of an event by its own name, or by the category that it has."""
  for text in (category.lower(), name.lower()):
    for kind, pattern in _NAMES.items():
      if text and re.search(pattern, text):
        return kind
  return OTHER


def _class(step: hlo.Instruction, module: hlo.Module) -> str:
  """The class of an instruction; empty if its work has events of its own."""
  if step.opcode in _CALLERS:
    return ''
  held = [step]
  if step.opcode == 'fusion':
    held = module.computations.get(step.attribute('calls')) or held
  opcodes = {inner.opcode for inner in held}
  targets = ' '.join(_TARGET.findall(step.rest))
  if any(of_name(opcode) == COLLECTIVES for opcode in opcodes):
    return COLLECTIVES
  if 'convolution' in opcodes or 'conv' in targets:
    return CONVOLUTIONS
  if 'dot' in opcodes or of_name(targets) == PRODUCTS:
    return PRODUCTS
  if _is_norm(held, module):
    return NORMS
  return COPIES if opcodes <= _MOVES else OTHER


def _is_norm(held: Sequence[hlo.Instruction], module: hlo.Module) -> bool:
  """Whether an operation is from a file of norms, by its innermost call."""
  sources = [source for x in held for source in _SOURCE.findall(x.rest)]
  sources += [source for x in held for source in module.files(x)[:1]]
  return any(source.endswith(_NORM_FILES) for source in sources)
