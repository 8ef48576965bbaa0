"""Processes of a test: two of one program of JAX, and one that is killed."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

from mrl_jax.stages import train_loop

ROOT = pathlib.Path(__file__).parents[1]


def free_address() -> str:
  """Returns `localhost:port` with a port that nothing listens at."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return f'localhost:{free.getsockname()[1]}'


def run_two(script: str, folder: pathlib.Path) -> None:
  """Runs Python code in two processes of four devices, and waits for both.

  Its arguments are the address of the first, the process's number and `folder`.
  """
  address = free_address()
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', script, address, str(index), str(folder)],
      cwd=ROOT,
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': '4'},
    )
    for index in range(2)
  ]
  assert [process.wait(timeout=100) for process in processes] == [0, 0]


def run_until_killed(script: str, *arguments: pathlib.Path, step: int) -> None:
  """Runs Python code that trains, in a process that is killed after a step.

  The code may use `sys`, and finds its arguments in `sys.argv`.
  """
  begin = (
    f'import sys\nfrom tests.processes import kill_after\nkill_after({step})\n'
  )
  ended = subprocess.run(
    [sys.executable, '-c', begin + script, *arguments],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert ended.returncode == -signal.SIGKILL, ended.stderr


def kill_after(step):
  """Ends the process, as kill -9 does, when a training has done this step."""
  record = train_loop.Loop._record

  def recorded(self, done, metrics):
    record(self, done, metrics)
    if done == step:
      self.checkpoints.wait()
      os.kill(os.getpid(), signal.SIGKILL)

  train_loop.Loop._record = recorded
