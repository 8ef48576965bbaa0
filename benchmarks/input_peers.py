"""Runs the loaders of other packages, each under a Python that has it."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import importlib.util
import json
import pathlib
import subprocess
import sys

# The module that runs a peer, and its ways of keeping images.
MODULES = {'ffcv': 'ffcv_input', 'dali': 'dali_input'}
MODES = {'ffcv': ('jpg', 'half'), 'dali': ('files',)}


def find(pythons: Mapping[str, str | None]) -> dict[str, str]:
  """The interpreter of each peer: the one given, or this one if it has it."""
  installed = {
    'ffcv': importlib.util.find_spec('ffcv'),
    'dali': importlib.util.find_spec('nvidia')
    and importlib.util.find_spec('nvidia.dali'),
  }
  here = {peer: sys.executable for peer, spec in installed.items() if spec}
  return here | {peer: path for peer, path in pythons.items() if path}


@contextlib.contextmanager
def start(
  peer: str, python: str, paths: Sequence[str], folder: pathlib.Path
) -> Iterator[subprocess.Popen]:
  """A process of the peer's module, after it has read or written the images.

  Exits, with the last line of what it says, if it does not run.
  """
  names = folder / 'names'
  names.write_text('\n'.join(paths))
  written = folder / peer
  written.mkdir()
  module = f'{__package__}.{MODULES[peer]}'
  with (
    open(folder / f'{peer}.log', 'w+') as log,
    subprocess.Popen(
      [python, '-m', module, str(names), str(written)],
      cwd=pathlib.Path(__file__).parents[1],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
      text=True,
    ) as process,
  ):
    if process.stdout.readline() != 'ready\n':
      log.seek(0)
      last = log.read().strip().rpartition('\n')[2]
      sys.exit(f'{peer} does not run under {python}: {last}')
    try:
      yield process
    finally:
      process.stdin.close()


def ask(process: subprocess.Popen, request: str) -> dict[str, float]:
  """What `input_rates.measure` returns; `request` is `MODE WORKERS BATCHES`."""
  print(request, file=process.stdin, flush=True)
  return json.loads(process.stdout.readline())
