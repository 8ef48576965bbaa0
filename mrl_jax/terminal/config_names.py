"""The config files that come with the package, found by their bare names."""

from collections.abc import Sequence
import importlib.machinery
import pathlib
import sys
import types

_PACKAGE = pathlib.Path(__file__).parent.parent
# `pip install` puts the folder into the package; a clone has it beside it.
FOLDER = next(
  (
    folder
    for folder in (_PACKAGE / 'configs', _PACKAGE.parent / 'configs')
    if (folder / 'default.py').is_file()
  ),
  _PACKAGE / 'configs',
)


def path(name: str) -> str:
  """The config file of a bare name: `digits_ff:16` -> `…/digits_ff.py:16`.

  A name that no file of `FOLDER` has, and any path, is returned as it is.
  """
  stem, colon, argument = name.partition(':')
  file = FOLDER / f'{stem}.py'
  if stem.isidentifier() and file.is_file():
    return f'{file}{colon}{argument}'
  return name


def replace_names(argv: Sequence[str]) -> list[str]:
  """A command line with the path in place of a bare name after --config."""
  replaced, previous = [], ''
  for arg in argv:
    flag, equals, value = arg.partition('=')
    if flag in ('--config', '-config') and equals:
      arg = f'{flag}={path(value)}'
    elif previous in ('--config', '-config'):
      arg = path(arg)
    replaced.append(arg)
    previous = arg
  return replaced


def make_importable() -> None:
  """Lets config files write `from configs import default` anywhere.

  The configs of this package come before any in a folder `configs/` of the
  Python path, which can hold more of them.
  """
  if 'configs' in sys.modules:
    return
  spec = importlib.machinery.PathFinder.find_spec('configs')
  others = (spec and spec.submodule_search_locations) or []
  configs = types.ModuleType('configs')
  configs.__path__ = list(dict.fromkeys([str(FOLDER), *others]))
  sys.modules['configs'] = configs
