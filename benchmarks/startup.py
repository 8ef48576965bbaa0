"""Times a run from the start of its process to the end of the first step.

    python -m benchmarks.startup [--json=FILE] [--config=configs/digits_mrl.py]

With an empty compilation cache, and with the one this left behind. Further
flags are passed on to launch.py.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import timing

ROOT = pathlib.Path(__file__).parent.parent


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.startup', description=__doc__.split('\n')[0]
  )
  parser.add_argument('--json', help='file for the figures')
  parser.add_argument('--config', default='configs/digits_mrl.py')
  args, flags = parser.parse_known_args()
  record = {'environment': timing.environment('jax', 'jaxlib'), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  with tempfile.TemporaryDirectory() as folder:
    rows = [
      {
        'cache': cache,
        'seconds': _first_step(args.config, flags, pathlib.Path(folder), cache),
      }
      for cache in ('cold', 'warm')
    ]
  record[args.config] = rows
  timing.show(args.config, rows)
  if args.json:
    timing.write_json(args.json, record)


def _first_step(
  config: str, flags: list[str], folder: pathlib.Path, name: str
) -> float:
  """Seconds until metrics.jsonl has the row of a step."""
  metrics = folder / name / 'metrics.jsonl'
  start = time.perf_counter()
  process = subprocess.Popen(
    [
      *(sys.executable, 'launch.py', f'--config={config}', '--mode=train'),
      *(f'--workdir={folder / name}', '--config.log_every_steps=1', *flags),
    ],
    cwd=ROOT,
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')},
    stdout=subprocess.DEVNULL,
  )
  try:
    while not (metrics.exists() and _has_step(metrics)):
      if process.poll() is not None:
        sys.exit(f'launch.py ended with {process.returncode}, see above')
      time.sleep(0.01)
    return time.perf_counter() - start
  finally:
    # Not at once: what it compiles last is to be in the cache.
    time.sleep(2)
    process.kill()
    process.wait()


def _has_step(metrics: pathlib.Path) -> bool:
  lines = metrics.read_text().splitlines()
  return bool(lines) and 'train/loss' in json.loads(lines[0])


if __name__ == '__main__':
  main()
