"""How commands end: one line for what a person can mend, else a traceback."""

import os
import re
import subprocess
import sys

import jax
import pytest

from mrl_jax.terminal import ending


def end(error, **options):
  with pytest.raises(SystemExit) as ended, ending.in_one_line(**options):
    raise error
  return ended.value.code


@pytest.mark.parametrize(
  'error, line',
  [
    (ValueError('dim 9:\n  too wide'), 'ValueError: dim 9: too wide'),
    (OSError(28, 'No space left on device'), r'OSError: \[Errno 28\] No space'),
    (IsADirectoryError(21, 'Is a directory', 'x'), "OSError: .*'x'"),
    (KeyboardInterrupt(), 'interrupted; the same command goes on'),
    (MemoryError('Unable to allocate 5 GiB'), 'MemoryError: .*5 GiB'),
    (RecursionError('maximum'), 'RecursionError: .*nested'),
    (
      jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'),
      r'out of memory of the device: lower --config\.batch_size',
    ),
    (RuntimeError("Unable to initialize backend 'x'"), 'JAX_PLATFORMS'),
    (ModuleNotFoundError('No', name='faiss.x'), 'pip install faiss-cpu'),
    (ModuleNotFoundError('No', name='torch'), 'pip install torch'),
  ],
)  # fmt: skip
def test_what_can_be_mended_is_one_line(error, line, monkeypatch):
  # What the ending sets in this process would outlive the test.
  monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
  monkeypatch.setattr(ending.threading, 'excepthook', None)
  code = end(error)
  assert len(code.splitlines()) == 1
  assert re.search(line, code)


@pytest.mark.parametrize(
  'error',
  [TypeError('x'), KeyError('x'), ModuleNotFoundError('x', name='mrl_jax.x')],
)
def test_a_bug_keeps_its_traceback(error):
  with pytest.raises(type(error)), ending.in_one_line():
    raise error


def test_a_traceback_on_demand(monkeypatch):
  with pytest.raises(ValueError, match='x'), ending.in_one_line(verbose=True):
    raise ValueError('x')
  monkeypatch.setenv('MRL_JAX_TRACEBACK', '1')
  with pytest.raises(ValueError, match='x'), ending.in_one_line():
    raise ValueError('x')


def run(redirection):
  program = (
    'from mrl_jax.terminal import ending\n'
    'with ending.in_one_line(): print("x" * 100_000)'
  )
  return subprocess.run(
    ['bash', '-c', f"{sys.executable} -c '{program}' {redirection}"],
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_a_reader_that_is_gone_is_no_error():
  assert not run('| head -c 5 > /dev/null').stderr


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_full_disk_is_one_line():
  ended = run('> /dev/full')
  assert ended.returncode == 1
  assert ended.stderr.startswith('OSError: [Errno 28]')
  assert len(ended.stderr.splitlines()) == 1
