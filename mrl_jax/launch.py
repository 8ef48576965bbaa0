"""Runs the stages of an experiment: train, evaluate, embed, …

    python -m mrl_jax.launch --config=digits_mrl [--workdir=DIR]
                     [--mode=train,evaluate] [--config.batch_size=128 …]

`--config` is a config file, or the name of one that comes with the package; a
colon separates what the file's `get_config` is given (`digits_ff:16`). Started
again on a workdir, finished stages are skipped and an unfinished one
goes on. `--mode` left out runs the config's own `modes`; `--workdir` left out
is `runs/<config name>`. TPU pods, SLURM and Kubernetes are detected; elsewhere
several processes are told of each other by `--coordinator_address=host:port
--num_processes=N --process_id=I`.
"""

import os
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from mrl_jax.terminal import config_file
from mrl_jax.terminal import config_names
from mrl_jax.terminal import ending
from mrl_jax.terminal import lists

_CONFIG = config_flags.DEFINE_config_file('config')
_WORKDIR = flags.DEFINE_string('workdir', '', 'Default: runs/<config name>.')
_MODE = flags.DEFINE_string(
  'mode', '', "Comma-separated stages. Default: the config's modes."
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  'coordinator_address',
  None,
  'host:port of process 0, the same for all.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes of this run, over all hosts.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process: 0 to num_processes - 1.'
)


class _ListParser(tuple_parser.TupleParser):
  """Has the fields that hold a list read as `lists` says."""

  def parse(self, argument):
    if isinstance(argument, str):
      return lists.parse(argument)
    return super().parse(argument)


config_flags.register_flag_parser_for_type(tuple, _ListParser())


def main(argv: list[str]) -> None:
  """Ends in one line on what can be mended; --verbosity=1: in a traceback."""
  with ending.in_one_line(verbose=logging.level_debug()):
    _main(argv)


def _main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise ValueError(f'argument {argv[1]!r}: only --flags are taken')
  config = _CONFIG.value
  flag: Any = flags.FLAGS['config']
  if not flag.present:
    raise ValueError('--config is missing: try --config=digits_mrl')
  try:
    config_file.check(config, flag.config_filename)
  except OSError as error:
    where = ' '.join(str(error).split()).rpartition('Attempted')[-1]
    raise ValueError(f'--config cannot be read:{where}') from error
  # After the flags, so that a mistake in them is told at once.
  from mrl_jax import stages
  from mrl_jax.stages import fields
  from mrl_jax.training import distributed
  from mrl_jax.training import preemption

  fields.check_present(config)
  with (
    preemption.interrupts_heard(),
    distributed.joined(
      _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    ),
    ending.in_one_line(verbose=logging.level_debug()),
  ):
    stages.run(
      config,
      _workdir(config.name),
      [mode.strip() for mode in _MODE.value.split(',')]
      if _MODE.value
      else config.modes,
    )


def _workdir(name: str) -> str:
  if _WORKDIR.value:
    return _WORKDIR.value
  if not name or os.sep in name or name in ('.', '..'):
    raise ValueError(
      f'name {name!r}: must be the name of a folder in runs/, or give --workdir'
    )
  return os.path.join('runs', name)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; on a mistake in it the process ends in a line."""
  # Libraries log tracebacks of what they raise as well.
  logging.set_verbosity(logging.FATAL)
  config_names.make_importable()
  argv = config_names.replace_names(argv)
  try:
    left = flags.FLAGS(argv)
    _refuse_twice(argv)
    return left
  except Exception as error:
    if line := _mistake(error, argv):
      sys.exit(f'ValueError: {line}')
    raise


def _mistake(error: Exception, argv: list[str]) -> str:
  """Describes the mistake in the command line, or in its config file."""
  path = next(
    (arg.partition('=')[2] for arg in argv if arg.startswith('--config=')), ''
  )
  if line := config_file.told(error, path):
    return line
  if isinstance(error, flags.Error):
    return ' '.join(str(error).split())
  # How ml_collections reports an unknown field, or one below a plain value.
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  line = ' '.join(str(error).split())
  if isinstance(error, AttributeError | KeyError):
    return f'--config has no field {line}'
  if isinstance(error, ValueError | TypeError | IndexError | OSError):
    return f'--config: {line}'
  return ''


def _refuse_twice(argv: list[str]) -> None:
  """Refuses a list given twice: the user may expect them to be joined."""
  names = [arg.partition('=')[0].lstrip('-') for arg in argv]
  for name in names:
    if (
      names.count(name) > 1
      and name.startswith('config.')
      and isinstance(flags.FLAGS[name], flags.MultiFlag)
    ):
      raise flags.Error(
        f'--{name} is given twice: give one list, with commas between'
      )


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
