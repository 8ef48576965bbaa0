"""Joins several processes into one run, and ends them together."""

from collections.abc import Iterator
import contextlib
import glob
import importlib.util
import os
import socket
import subprocess
import sys
import traceback

import jax

# Seconds. JAX's own, 300 and 100, leave accelerators idle behind a dead peer.
_START_TIMEOUT = 50
_HEARTBEAT_TIMEOUT = 30
_RESTART = 'started again, all go on from the last checkpoint'


@contextlib.contextmanager
def joined(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> Iterator[None]:
  """Makes this process one of several for the duration of the block.

  Enter it before any device is used. Without arguments TPU pods, SLURM and
  Kubernetes are detected, and elsewhere nothing happens. Among several
  processes an exception in the block ends this process at once, a SystemExit
  with its line. Raises ValueError for impossible arguments, or some of them.
  """
  given = (coordinator_address, num_processes, process_id)
  if given == (None, None, None) and not _in_cluster():
    yield
    return
  if given != (None, None, None):
    _check(*given)
  with _witness():
    _initialize(given)
    failed = False
    try:
      yield
    except BaseException as error:
      if isinstance(error, SystemExit) and isinstance(error.code, int):
        raise  # SIGTERM: all leave after the same step.
      failed = True
      _show(error)
  if failed:
    # An orderly exit would wait for the others, which wait for this process.
    os._exit(1)


def _initialize(given: tuple) -> None:
  """Raises OSError if the processes do not find each other."""
  try:
    jax.distributed.initialize(
      *given,
      cluster_detection_method=None if None in given else 'deactivate',
      initialization_timeout=_START_TIMEOUT,
      heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
    )
  except jax.errors.JaxRuntimeError as error:
    line = ' '.join(str(error).split())[:200]
    raise OSError(
      f'the processes did not find each other ({line}): is the port of process '
      '0 free, its host reached from here, and were all started?'
    ) from error


def _check(coordinator_address, num_processes, process_id) -> None:
  if None in (coordinator_address, num_processes, process_id):
    raise ValueError(
      f'coordinator_address {coordinator_address}, num_processes '
      f'{num_processes}, process_id {process_id}: give all three or none'
    )
  host, _, port = coordinator_address.rpartition(':')
  if not (host and port.isascii() and port.isdecimal()) or not (
    0 < int(port[:9]) < 2**16
  ):
    raise ValueError(
      f'coordinator_address {coordinator_address!r}: must be host:port'
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f'process_id {process_id}: must be in [0, num_processes), of which there '
      f'are {num_processes}'
    )
  if not process_id:
    _check_free(int(port))


def _check_free(port: int) -> None:
  """Raises OSError if process 0 cannot wait for the others at this port."""
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    socket.create_server(('', port), family=family, dualstack_ipv6=both).close()
  except OSError as error:
    raise OSError(
      f'coordinator_address: port {port} of this host is taken, or not to be '
      f'used ({error.strerror}): give another to all processes'
    ) from error


def _in_cluster() -> bool:
  """Whether a cluster has started several processes, as far as can be told."""
  # JAX would find them, but would also wait in an interactive SLURM shell.
  if _slurm_tasks() > 1:
    return True
  if 'JOB_COMPLETION_INDEX' in os.environ and _is_installed('kubernetes'):
    return True
  # JAX finds the hosts of a TPU itself.
  chips = glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*')
  return bool(chips) and _is_installed('libtpu')


def _slurm_tasks() -> int:
  """The number of processes that srun has started; 1 outside of SLURM."""
  tasks = _slurm_number('SLURM_STEP_NUM_TASKS', 1)
  if tasks < 2:
    return tasks
  numbers = ('SLURM_JOB_ID', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')
  # An empty variable counts as missing.
  names = (*numbers, 'SLURM_STEP_NODELIST')
  if missing := [name for name in names if not os.environ.get(name)]:
    raise ValueError(
      f'SLURM_STEP_NUM_TASKS={tasks}, but {", ".join(missing)} not set: start '
      'with srun, or give --coordinator_address, --num_processes, --process_id'
    )
  _, total, process, _ = map(_slurm_number, numbers)
  if process >= total:
    raise ValueError(
      f'SLURM_PROCID={process}: must be below SLURM_NTASKS={total}'
    )
  return tasks


def _slurm_number(name: str, default: int = 0) -> int:
  text = os.environ.get(name, '') or str(default)
  if not (text.isascii() and text.isdecimal()):
    raise ValueError(f'{name}={text!r}: must be a whole number')
  return int(text)


def _is_installed(package: str) -> bool:
  return importlib.util.find_spec(package) is not None


@contextlib.contextmanager
def _witness() -> Iterator[None]:
  """Starts a child that prints a line if this process dies within the block."""
  # JAX's runtime aborts a process whose peers are gone, in C++.
  line = (
    f'OSError: killed, or another process is gone (see its log); {_RESTART}'
  )
  program = 'import sys; sys.stdin.read() or sys.exit(sys.argv[1])'
  witness = subprocess.Popen(
    [sys.executable, '-IS', '-c', program, line],
    stdin=subprocess.PIPE,
    # Ctrl-C must not reach it.
    start_new_session=True,
  )
  try:
    yield
  finally:
    witness.communicate(b'.')


def _show(error: BaseException) -> None:
  if isinstance(error, SystemExit):
    print(error.code, file=sys.stderr)
  elif isinstance(error, jax.errors.JaxRuntimeError):
    line = ' '.join(str(error).split())[:200]
    print(
      f'OSError: another process is gone, or this one failed ({line}); '
      f'{_RESTART}',
      file=sys.stderr,
    )
  else:
    traceback.print_exception(error)
  sys.stdout.flush()
  sys.stderr.flush()
