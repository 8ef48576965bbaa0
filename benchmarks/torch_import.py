"""Times the import of a PyTorch checkpoint; memory beside the file's size.

    python -m benchmarks.torch_import [--json=FILE] [--encoder=resnet50]

The file has random weights and nine MRL heads. Each way runs in a process of
its own: `load` fills a model that is only described, `init_from` one that is
initialised before, as at the start of a run, and `command` writes the workdir,
too. Memory is what the process's peak (VmHWM, of Linux) is above what it held
before, JAX and the model included; pages of the file that are mapped count.
`process` is all of it, with Python's start and the imports of JAX and PyTorch.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from flax import nnx
import jax
from jax import numpy as jnp
from safetensors.numpy import save_file

from benchmarks import timing
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch import load
from mrl_jax.models import resnet
from mrl_jax.stages import import_torch

ROOT = pathlib.Path(__file__).parent.parent
NUM_CLASSES = 1000
WAYS = ('load', 'init_from', 'command')


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.torch_import',
    description=__doc__.split('\n')[0],
  )
  add = parser.add_argument
  add('--json', help='file for the figures')
  add('--encoder', default='resnet50', choices=tuple(resnet.VARIANTS))
  add('--one', nargs=2, metavar=('WAY', 'FILE'), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.one:
    print(json.dumps(_measure(args.encoder, *args.one)))
    return
  packages = ('jax', 'torch', 'safetensors')
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  with tempfile.TemporaryDirectory() as folder:
    paths = _write(args.encoder, pathlib.Path(folder))
    record[args.encoder] = [
      _run(args.encoder, way, path) for path in paths for way in WAYS
    ]
  timing.show(args.encoder, record[args.encoder])
  if args.json:
    timing.write_json(args.json, record)


def _model(encoder: str) -> models.Classifier:
  dims = nesting.doubling(8, models.num_features(encoder))
  return models.Classifier(
    encoder, dims, NUM_CLASSES, blurpool=True, rngs=nnx.Rngs(0)
  )


def _write(encoder: str, folder: pathlib.Path) -> list[pathlib.Path]:
  import torch

  tensors = arrays.to_torch(_model(encoder), 'timm')
  paths = [folder / 'model.safetensors', folder / 'model.pt']
  save_file(tensors, paths[0])
  torch.save(
    {k: torch.from_numpy(x.copy()) for k, x in tensors.items()}, paths[1]
  )
  return paths


def _run(encoder: str, way: str, path: pathlib.Path) -> timing.Row:
  start = time.perf_counter()
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.torch_import'),
      *(f'--encoder={encoder}', '--one', way, path),
    ],
    cwd=ROOT,
    check=True,
    stdout=subprocess.PIPE,
  )
  measured = json.loads(done.stdout.splitlines()[-1])
  return {
    'file': path.suffix,
    'way': way,
    **measured,
    'process s': time.perf_counter() - start,
  }


def _measure(encoder: str, way: str, file: str) -> timing.Row:
  if file.endswith('.pt'):
    import torch  # noqa: F401 (its own memory is not the import's)
  build = lambda: _model(encoder)
  model = build() if way == 'init_from' else nnx.eval_shape(build)
  jax.block_until_ready(jnp.zeros(1) + 1)  # JAX has started.
  before = _memory('VmRSS')
  # Lets the peak begin anew.
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  start = time.perf_counter()
  if way == 'command':
    import_torch.write(file, f'{file}-workdir')
  else:
    load.load(file, model, encoder=encoder)
  seconds = time.perf_counter() - start
  size = os.path.getsize(file)
  return {
    'MB': size / 1e6,
    's': seconds,
    'memory x file': (_memory('VmHWM') - before) / size,
  }


def _memory(name: str) -> int:
  status = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(re.search(rf'{name}:\s+(\d+) kB', status)[1])


if __name__ == '__main__':
  main()
