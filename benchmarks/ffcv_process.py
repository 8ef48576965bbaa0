"""Runs `benchmarks.ffcv_input` under a Python that has FFCV."""

from collections.abc import Iterator, Sequence
import contextlib
import json
import pathlib
import subprocess
import sys


@contextlib.contextmanager
def start(
  python: str, paths: Sequence[str], folder: pathlib.Path
) -> Iterator[subprocess.Popen]:
  """A process of `ffcv_input`, after it has written the images."""
  names = folder / 'names'
  names.write_text('\n'.join(paths))
  written = folder / 'ffcv'
  written.mkdir()
  script = pathlib.Path(__file__).with_name('ffcv_input.py')
  with (
    open(folder / 'ffcv.log', 'w+') as log,
    subprocess.Popen(
      [python, str(script), str(names), str(written)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
      text=True,
    ) as process,
  ):
    if process.stdout.readline() != 'ready\n':
      log.seek(0)
      last = log.read().strip().rpartition('\n')[2]
      sys.exit(f'FFCV does not run under {python}: {last}')
    try:
      yield process
    finally:
      process.stdin.close()


def ask(process: subprocess.Popen, request: str) -> dict[str, float]:
  """Images a second and processor seconds an image."""
  print(request, file=process.stdin, flush=True)
  return json.loads(process.stdout.readline())
