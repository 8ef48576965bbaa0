"""Measures how long a save stalls the training loop.

    python -m benchmarks.checkpoint [--json=FILE] [--encoder=resnet50]

Steps run as training runs them, one ahead of the host. A save waits for the
step in hand and copies its state; the rest is written while the next steps run.
The stall is by how much the time of a few steps grows that follow a save, until
the last of them is done; `write` is until the save is whole on disk.
"""

import argparse
import tempfile
import time

from flax import nnx
import jax
import numpy as np

from benchmarks import timing
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.models import resnet
from mrl_jax.training import optim
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.training.checkpoint import Checkpoints

STEPS, ROUNDS = 3, 4


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.checkpoint', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--json', help='file for the figures')
  add('--encoder', default='resnet50', choices=tuple(resnet.VARIANTS))
  add('--batch_size', type=int, default=16)
  add('--image_size', type=int, default=64)
  args = parser.parse_args()
  record = {
    'environment': timing.environment('jax', 'jaxlib', 'orbax-checkpoint'),
    **vars(args),
  }
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  title = f'{args.encoder}, batch {args.batch_size}, {args.image_size} pixels'
  record[title] = [_measure(args)]
  timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def _measure(args) -> timing.Row:
  dims = nesting.doubling(8, models.num_features(args.encoder))
  model = models.Classifier(
    args.encoder, dims, 1000, blurpool=True, rngs=nnx.Rngs(0)
  )
  optimizer = optim.sgd(0.01, momentum=0.9, weight_decay=1e-4)
  graphdef, state = state_lib.create(model, optimizer)
  step = train_step_lib.make_train_step(
    graphdef, optimizer, lambda key, batch, step: batch, seed=0
  )
  rng = np.random.default_rng(0)
  shape = (args.batch_size, args.image_size, args.image_size, 3)
  batch = jax.device_put(
    (
      rng.normal(size=shape).astype(np.float32),
      rng.integers(0, 1000, args.batch_size).astype(np.int32),
    )
  )
  state, metrics = step(state, batch)  # Compiles.
  jax.block_until_ready(state)
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  times = {'plain': [], 'saving': [], 'blocked': [], 'write': [], 'restore': []}
  with (
    tempfile.TemporaryDirectory() as folder,
    Checkpoints(folder, keep=1) as checkpoints,
  ):
    for saves in (False, True) * ROUNDS:
      start = time.perf_counter()
      if saves:
        checkpoints.save(state, {})
        times['blocked'].append(time.perf_counter() - start)
      for _ in range(STEPS):
        pending = metrics
        state, metrics = step(state, batch)
        jax.block_until_ready(pending)
      jax.block_until_ready(state)
      times['saving' if saves else 'plain'].append(time.perf_counter() - start)
      checkpoints.wait()
      if saves:
        times['write'].append(time.perf_counter() - start)
    for _ in range(ROUNDS):
      start = time.perf_counter()
      jax.block_until_ready(checkpoints.restore(state, checkpoints.latest_step))
      times['restore'].append(time.perf_counter() - start)
  ms = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
  step_ms = ms['plain'] / STEPS
  return {
    'MB': size / 1e6,
    'step ms': step_ms,
    'save returns after ms': ms['blocked'],
    'stall in steps': (ms['saving'] - ms['plain']) / step_ms,
    'write ms': ms['write'],
    'restore ms': ms['restore'],
  }


if __name__ == '__main__':
  main()
