"""Runs the stages of an experiment: train, evaluate, embed, …

    python launch.py --config=configs/digits_mrl.py [--workdir=DIR]
                     [--mode=train,evaluate] [--config.batch_size=128 …]

Started again on a workdir, finished stages are skipped and an unfinished one
goes on. `--mode` left out runs the config's own `modes`; `--workdir` left out
is `runs/<config name>`. TPU pods, SLURM and Kubernetes are detected; elsewhere
several processes are told of each other by `--coordinator_address=host:port
--num_processes=N --process_id=I`.
"""

import os
import sys
import threading

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file('config')
_WORKDIR = flags.DEFINE_string('workdir', '', 'Default: runs/<config name>.')
_MODE = flags.DEFINE_string(
  'mode', '', "Comma-separated stages. Default: the config's modes."
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  'coordinator_address', None, 'Of process 0, host:port, the same for all.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes of this run, over all hosts.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Of this process: 0 to num_processes - 1.'
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise ValueError(f'argument {argv[1]!r}: only --flags are taken')
  config = _CONFIG.value
  if config is None:
    raise ValueError('--config is missing: try configs/digits_mrl.py')
  try:
    config.lock()
  except OSError as error:
    where = ' '.join(str(error).split()).rpartition('Attempted')[-1]
    raise ValueError(f'--config cannot be read:{where}') from error
  # After the flags, so that a mistake in them is told at once.
  from mrl_jax import distributed
  from mrl_jax import preemption
  from mrl_jax import stages

  with (
    preemption.interrupts_heard(),
    distributed.joined(
      _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    ),
  ):
    _one_line(stages.run)(
      config,
      _WORKDIR.value or os.path.join('runs', config.name),
      _MODE.value.split(',') if _MODE.value else config.modes,
    )


def _parse_flags(argv: list[str]) -> list[str]:
  # Libraries log tracebacks of what they raise as well.
  logging.set_verbosity(logging.FATAL)
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # A config file that raises comes with its traceback; the last line says it.
    head, traceback, rest = str(error).partition('\n\nTraceback')
    line = (
      rest.strip().splitlines()[-1] if traceback else ' '.join(head.split())
    )
    sys.exit(f'ValueError: {line.removeprefix("ValueError: ")}')
  # How ml_collections reports an unknown field.
  except (AttributeError, KeyError) as error:
    while error.args and isinstance(error.args[0], Exception):
      error = error.args[0]
    line = ' '.join(str(error.args[0]).split())
    sys.exit(f'ValueError: --config has no field {line}')


def _one_line(function):
  """Ends on bad input with one line; --verbosity=1 shows the traceback."""

  def run(*args):
    try:
      function(*args)
    except KeyboardInterrupt:
      sys.exit('interrupted; the same command goes on from where it can')
    except (ValueError, OSError) as error:
      if logging.level_debug():
        raise
      # What else fails on the way out has the same cause.
      sys.unraisablehook = threading.excepthook = lambda _: None
      kind = 'ValueError' if isinstance(error, ValueError) else 'OSError'
      sys.exit(f'{kind}: {" ".join(str(error).split())}')

  return run


if __name__ == '__main__':
  app.run(_one_line(main), flags_parser=_parse_flags)
