"""Which packages of requirements.txt are missing, and does without some."""

import importlib.metadata
import importlib.util
import pathlib
import re
import sys
import types

_REQUIREMENTS = pathlib.Path(__file__).parents[2] / 'requirements.txt'
# They only decode images, of which there are none here.
_UNUSED = ('simplejpeg',)


def names() -> list[str]:
  """The packages of requirements.txt that are not installed."""
  found = []
  for line in _REQUIREMENTS.read_text().splitlines():
    match = re.match(r'[\w-]+', line)
    if match:
      try:
        importlib.metadata.version(match[0])
      except importlib.metadata.PackageNotFoundError:
        found.append(match[0])
  return found


def line() -> str:
  """One line that names them; empty if all are installed."""
  missing = names()
  if not missing:
    return ''
  return (
    f'not installed of requirements.txt: {", ".join(missing)}; a part that '
    'needs one of them fails and says so'
  )


def stand_in() -> None:
  """Puts empty modules in place of missing ones that are imported in vain.

  Call it before the modules of `mrl_jax` are imported.
  """
  for name in _UNUSED:
    if importlib.util.find_spec(name) is None:
      sys.modules[name] = types.ModuleType(name)
