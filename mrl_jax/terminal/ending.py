"""Ends a command: with one line for a user's mistake, a traceback for a bug.

Every command runs inside `in_one_line`. An error that the user can fix (a bad
value or file, a full disk, too little memory, a package that is not installed)
ends in one line and exit status 1. Any other exception is a bug, and its
traceback is shown. MRL_JAX_TRACEBACK=1 in the environment always shows it.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import select
import sys
import threading
import traceback

# The names on PyPI of modules, where they differ.
_PACKAGES = {
  'cykooz': 'cykooz-resizer',
  'faiss': 'faiss-cpu',
  'PIL': 'pillow',
  'qdrant_client': 'qdrant-client',
  'sklearn': 'scikit-learn',
  'tensorflow': 'tensorflow-cpu',
}


@contextlib.contextmanager
def in_one_line(*, verbose: bool = False) -> Iterator[None]:
  """Ends the process with one line on an error that the user can fix.

  `verbose` shows a traceback instead. If the reader of the output is gone, as
  with `head`, the process ends in silence.
  """
  for stream in (sys.stdout, sys.stderr):
    # A terminal that lacks a character shows its code, such as \\u2192.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  try:
    yield
    if sys.stdout:
      sys.stdout.flush()  # A full disk shows here at the latest.
  except KeyboardInterrupt:
    sys.exit('interrupted; the same command goes on from where it can')
  except Exception as error:
    if isinstance(error, BrokenPipeError) and _is_reader_gone():
      _print_nowhere()
      sys.exit(1)
    line = told(error)
    if verbose or os.environ.get('MRL_JAX_TRACEBACK') or not line:
      raise
    _print_nowhere()
    # Errors on the way out have the same cause.
    sys.unraisablehook = threading.excepthook = lambda _: None
    sys.exit(line)


def told(error: BaseException) -> str:
  """The line of an exception that the user can fix; '' for any other."""
  text = ' '.join(str(error).split())
  if isinstance(error, ModuleNotFoundError):
    name = (error.name or '').partition('.')[0]
    if name in ('', 'mrl_jax', 'configs'):
      return ''
    package = _PACKAGES.get(name, name)
    return f'ImportError: {name} is not installed: pip install {package}'
  # JAX raises RuntimeErrors; no class of its own is imported here.
  if isinstance(error, RuntimeError):
    if 'RESOURCE_EXHAUSTED' in text:
      return (
        'MemoryError: out of memory of the device: lower --config.batch_size '
        'or --config.eval_batch_size, raise --config.micro_batches, or set '
        f'--config.remat=true ({text[:200]})'
      )
    if text.startswith(('Unable to initialize backend', 'Unknown backend')):
      return f'ValueError: JAX_PLATFORMS or its device: {text[:300]}'
  if isinstance(error, MemoryError):
    return f'MemoryError: out of memory of this machine {text}'.strip()
  if isinstance(error, RecursionError):
    return f'RecursionError: the input is nested too deeply ({text})'
  if isinstance(error, AttributeError):
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].filename.endswith('config_dict.py'):
      return f'ValueError: the config has no field {text}'
  for kind in (ValueError, OSError):
    if isinstance(error, kind):
      return f'{kind.__name__}: {text or type(error).__name__}'
  return ''


def _is_reader_gone() -> bool:
  """Whether stdout is a pipe without a reader."""
  poll = select.poll()
  poll.register(1, 0)
  return any(event & select.POLLERR for _, event in poll.poll(0))


def _print_nowhere() -> None:
  """Drops output that stdout cannot take, which is flushed again at exit."""
  try:
    if sys.stdout:
      sys.stdout.flush()
  except (OSError, ValueError):
    pass
  else:
    return
  with contextlib.suppress(OSError, ValueError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
