"""The parts of the run, the most important first."""

import importlib
from typing import Any, NamedTuple


class Part(NamedTuple):
  """A part of the run.

  Attributes:
    name: its name on the command line.
    module: the module of this package whose `run(task, *arguments)` it is.
    share: its share of the time, relative to those of the others.
    arguments: further arguments of `run`.
  """

  name: str
  module: str
  share: float
  arguments: tuple[Any, ...] = ()

  def load(self) -> Any:
    """Imports the module; raises ImportError if a package is missing."""
    return importlib.import_module(f'benchmarks.accelerator.{self.module}')


# Shares are seconds of nine minutes.
PARTS = (
  Part('card', 'card', 10),
  Part('digits', 'digits', 25),
  Part('heads', 'heads', 85),
  Part('resnet', 'steps', 180),
  Part('encoders', 'encoders', 60),
  Part('resident', 'resident', 40),
  Part('search', 'search', 55),
  Part('encode', 'encode', 30),
  Part('memory', 'memory', 10, ('FF',)),
  Part('memory', 'memory', 10, ('MRL-E',)),
  Part('memory', 'memory', 10, ('MRL',)),
  Part('trace', 'trace', 25),
)


def chosen(names: str) -> tuple[Part, ...]:
  """The parts named in a list with commas; all of them for an empty one.

  Raises ValueError for a name that is no part's.
  """
  if not names:
    return PARTS
  wanted = names.split(',')
  known = list(dict.fromkeys(part.name for part in PARTS))
  for name in wanted:
    if name not in known:
      raise ValueError(f'--parts={name}: must be among {", ".join(known)}')
  return tuple(part for part in PARTS if part.name in wanted)
