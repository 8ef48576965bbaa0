"""Describes what is wrong with a config file in one line."""

import traceback
from typing import Any

from ml_collections import ConfigDict


def told(error: BaseException, name: str) -> str:
  """A line on the error of a config file; '' for an error from elsewhere.

  Args:
    error: what reading the file raised.
    name: the file, and after a colon the argument of its `get_config`.
  """
  path = name.partition(':')[0]
  text = ' '.join(str(error).split())
  # absl keeps only the text of the error, after its traceback.
  if 'Error whilst parsing config file:' in str(error):
    line = str(error).strip().splitlines()[-1]
    return f'--config={name}: {line.removeprefix("ValueError: ")}'
  if isinstance(error, SyntaxError):
    where = f', line {error.lineno}' if error.lineno else ''
    return f'--config={name}{where}: {error.msg}'
  if isinstance(error, UnicodeDecodeError) and path:
    return f'--config={name} is not Python: {text}'
  if "has no attribute 'get_config'" in text:
    return f'--config={name}: must define get_config()'
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == path]
  if path and lines:
    return f'--config={name}, line {lines[-1]}: {type(error).__name__}: {text}'
  return ''


def check(config: Any, name: str) -> None:
  """Locks a config; ValueError if `get_config` returned something else."""
  if config is not None and hasattr(config, 'lock'):
    config.lock()
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f'--config={name}: get_config must return a ConfigDict, not '
      f'{type(config).__name__}'
    )
