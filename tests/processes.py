"""Processes of a test that form one program of JAX, over loopback."""

import os
import pathlib
import socket
import subprocess
import sys

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
