"""Measures all that matters on the accelerator that is there, in minutes.

    python -m benchmarks.accelerator --minutes=9 --out=DIR [--tiny]
                                     [--parts=heads,resnet] [--pixels=160,224]

The most important comes first, and each result is written to DIR/results.jsonl
as soon as it is there; tables.md and summary.json follow at the end. Every part
runs in a process of its own, with a share of the minutes: one that fails, runs
out of memory or takes too long is recorded as such, and the next one begins.
Peers in PyTorch run beside ours in the same process, in alternating rounds;
times are medians, after a warm-up, and compilation is timed apart. Needs no
network, no TensorFlow and no data. `--tiny` runs everything in small, on any
device, to see that it works. `unset JAX_COMPILATION_CACHE_DIR` first: compile
times are those of an empty cache then.
"""

import argparse
import os
import pathlib
import tempfile
import time

from benchmarks.accelerator import missing
from benchmarks.accelerator import parts as parts_lib
from benchmarks.accelerator import results
from benchmarks.accelerator import runner
from benchmarks.accelerator import sizes as sizes_lib


def main() -> None:
  start = time.monotonic()
  parser, args = _parse_args()
  try:
    parts = parts_lib.chosen(args.parts)
    sizes = sizes_lib.chosen(tiny=args.tiny, pixels=args.pixels)
    runner.check_minutes(args.minutes, tiny=args.tiny)
  except ValueError as error:
    parser.error(str(error))
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as cache:
    _set_environment(cache)
    if line := missing.line():
      print(line, flush=True)
    record = results.Record(out)
    deadline = start + 60 * args.minutes
    runner.run(parts, sizes, record, deadline)
  record.finish(minutes=args.minutes, tiny=args.tiny, missing=missing.names())


def _parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.accelerator', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--minutes', type=float, default=9, help='ends by then')
  add('--out', required=True, help='folder for the results')
  names = ', '.join(part.name for part in parts_lib.PARTS)
  add('--parts', default='', help=f'only these: {names}')
  add('--pixels', default='', help='only these sizes of the ResNet-50 step')
  add('--tiny', action='store_true', help='everything in small, to try it out')
  return parser, parser.parse_args()


def _set_environment(cache: str) -> None:
  """Settings that JAX reads as it is imported, for all processes."""
  defaults = {
    # PyTorch is beside it on the same device.
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    # What one part has compiled another finds.
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
    'TF_CPP_MIN_LOG_LEVEL': '2',
  }
  for name, value in defaults.items():
    os.environ.setdefault(name, value)


if __name__ == '__main__':
  main()
