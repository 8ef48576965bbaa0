"""The command that makes a finished run again."""

from collections.abc import Iterator, Mapping
import importlib.util
import json
import pathlib
import shlex
from typing import Any

from mrl_jax.claims.evidence import Run
from mrl_jax.terminal import config_names


def of(run: Run) -> str:
  """Its config file, the stages that are finished, and the fields it changes.

  Empty if no config file that comes with the package has its config's name, or
  if that file makes no config without an argument.
  """
  file = pathlib.Path(config_names.path(run.config.name))
  if not file.is_file():
    return ''
  try:
    original = _get_config(file)
  except (AttributeError, ValueError):
    return ''
  modes = ','.join(run.workdir.marks())
  recorded = json.loads(run.config.to_json())
  changed = dict(_changed(recorded, json.loads(original.to_json())))
  changed.pop('modes', None)
  flags = [
    shlex.quote(f'--config.{name}={_typed(value)}')
    for name, value in changed.items()
  ]
  head = f'python launch.py --config=configs/{file.name} --mode={modes}'
  return ' '.join([head, *flags])


def _get_config(file: pathlib.Path):
  config_names.make_importable()
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def _changed(
  now: Mapping[str, Any], before: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  """The fields that differ, as `part.name`, with their values now."""
  for name, value in now.items():
    if isinstance(value, Mapping):
      yield from _changed(value, before.get(name, {}), f'{prefix}{name}.')
    elif name not in before or value != before[name]:
      yield prefix + name, value


def _typed(value: Any) -> str:
  """A value as it is typed on the command line."""
  if not isinstance(value, list):
    return str(value)
  if any(isinstance(x, str) for x in value):
    return ','.join(map(repr, value))
  return ','.join(map(str, value)) or '()'
