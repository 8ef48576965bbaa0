"""Times the whole training step: fixed feature, MRL-E, MRL; and with input.

    python -m benchmarks.train_step [--peer=torch] [--json=FILE]
                                    [--batch_size=16] [--image_size=64]
                                    [--dataset=DIR]

On synthetic images. With a dataset, as `mrl_jax.data.prepare` writes it, the
MRL step also runs on its training images as they are read and decoded; `of the
slower` is that rate as a share of the lesser of input alone and step alone.
The step is the one training runs: normalisation, forward, backward, SGD.
Medians of alternating runs; `of matmul` is what XLA counts of the step's
arithmetic, as a share of the rate of a large matrix product in the same run.
"""

import argparse
import contextlib
import itertools

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from benchmarks import imagenet
from benchmarks import timing
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.stream import Crops
from mrl_jax.data.batches.stream import StreamBatches
from mrl_jax.data.sources import datasets
from mrl_jax.models import resnet
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib

NUM_CLASSES = 1000
KINDS = {'FF': 'fixed', 'MRL-E': 'mrl_e', 'MRL': 'mrl'}
PRODUCT = 4096  # Rows and columns of the product that the rate is taken from.


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.train_step', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--peer', choices=('torch', 'torch_compile'))
  add('--json', help='file for the figures')
  add('--dataset', help='one whose training images to read')
  add('--encoder', default='resnet50', choices=tuple(resnet.VARIANTS))
  add('--batch_size', type=int, default=16)
  add('--image_size', type=int, default=64)
  add('--rounds', type=int, default=7)
  add('--window', type=int, default=10, help='steps in a round of real input')
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  args = parser.parse_args()
  packages = ['jax', 'jaxlib', *(['torch'] if args.peer else [])]
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  title = (
    f'{args.encoder}, batch {args.batch_size}, {args.image_size} pixels, '
    f'{args.dtype}'
  )
  record[title] = _steps(args)
  timing.show(title, record[title])
  if args.dataset:
    title = f'MRL, fed from {args.dataset}'
    record[title] = [_fed(args)]
    timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def _batch(args) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  shape = (args.batch_size, args.image_size, args.image_size, 3)
  return {
    'image': rng.integers(0, 256, shape, np.uint8),
    'label': rng.integers(0, NUM_CLASSES, args.batch_size).astype(np.int32),
  }


def _dims(args, kind: str) -> tuple[int, ...]:
  dims = nesting.doubling(8, models.num_features(args.encoder))
  return dims[-1:] if kind == 'fixed' else dims


def _compiled(args, kind: str, batch):
  """The compiled step, and the state that it begins with."""
  build = lambda: models.Classifier(
    args.encoder,
    _dims(args, kind),
    NUM_CLASSES,
    head=kind,
    blurpool=True,
    dtype=jnp.dtype(args.dtype),
    rngs=nnx.Rngs(0),
  )
  optimizer = optim.sgd(0.01, momentum=0.9, weight_decay=1e-4, mask='reference')
  graphdef, state = state_lib.create(build(), optimizer)
  step = train_step_lib.make_train_step(
    graphdef,
    optimizer,
    lambda key, batch, step: (
      imagenet.normalize(batch['image']),
      batch['label'],
    ),
    seed=0,
    label_smoothing=0.1,
  )
  return step.lower(state, batch).compile(), state


def _ours(args, kind: str, batch):
  """Returns a call of one step, and XLA's count of its operations."""
  compiled, state = _compiled(args, kind, batch)

  def run():
    nonlocal state
    state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))

  return run, compiled.cost_analysis()['flops']


def _peer(args, kind: str, batch):
  import torch

  from benchmarks import torch_resnet

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = torch_resnet.Classifier(
    models.ENCODERS[args.encoder], kind, _dims(args, kind), NUM_CLASSES
  ).to(device, memory_format=torch.channels_last)
  if args.peer == 'torch_compile':
    model = torch.compile(model)
  optimizer = torch_resnet.optimizer(model, momentum=0.9, weight_decay=1e-4)
  criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
  mean, std = (
    torch.tensor(x, device=device)[:, None, None]
    for x in (imagenet.MEAN, imagenet.STD)
  )
  image = torch.tensor(batch['image'], device=device).permute(0, 3, 1, 2)
  label = torch.tensor(batch['label'], device=device).long()

  def run():
    with torch.autocast(
      device, torch.bfloat16, enabled=args.dtype == 'bfloat16'
    ):
      logits = model((image / 255 - mean) / std)
      loss = sum(criterion(x, label) for x in logits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def _fed(args) -> timing.Row:
  """Rates of input, step and both; every window ends with an idle device."""
  source = datasets.open_source(args.dataset, 'train')
  batches = StreamBatches(
    source,
    args.batch_size,
    mesh=sharding.make_mesh(1),
    seed=0,
    crops=Crops({0: args.image_size}, scale=(0.08, 1.0)),
    damage=DamageLog(0),
  )
  resident = jax.device_put(_batch(args))
  step, state = _compiled(args, 'mrl', resident)

  def read():
    with contextlib.closing(batches.batches(0)) as stream:
      for batch in itertools.islice(stream, args.window):
        jax.block_until_ready(batch)

  def train(given):
    nonlocal state
    metrics = None
    for batch in itertools.islice(given, args.window):
      pending = metrics
      state, metrics = step(state, batch)
      jax.block_until_ready(pending)
    jax.block_until_ready(state)

  def both():
    with contextlib.closing(batches.batches(0)) as stream:
      train(stream)

  ms = timing.medians(
    {
      'input': read,
      'step': lambda: train(itertools.repeat(resident)),
      'both': both,
    },
    args.rounds,
  )
  rates = {
    name: 1e3 * args.batch_size * args.window / value
    for name, value in ms.items()
  }
  return {
    **{f'{name} images/s': rate for name, rate in rates.items()},
    'of the slower': rates['both'] / min(rates['input'], rates['step']),
  }


def _steps(args) -> list[timing.Row]:
  batch = jax.device_put(_batch(args))
  functions, operations = {}, {}
  for name, kind in KINDS.items():
    functions[name], operations[name] = _ours(args, kind, batch)
    if args.peer:
      functions[name, 'peer'] = _peer(args, kind, jax.device_get(batch))
  square = jnp.ones((PRODUCT, PRODUCT), args.dtype)
  product = jax.jit(jnp.matmul)
  functions['product'] = lambda: jax.block_until_ready(product(square, square))
  ms = timing.medians(functions, args.rounds)
  rate = 2 * PRODUCT**3 / ms['product']
  rows = []
  for name in KINDS:
    row = {
      'head': name,
      'step ms': ms[name],
      'images/s': 1e3 * args.batch_size / ms[name],
      'x FF': ms[name] / ms['FF'],
      'of matmul': operations[name] / ms[name] / rate,
    }
    if args.peer:
      row['peer images/s'] = 1e3 * args.batch_size / ms[name, 'peer']
      row['ours / peer'] = ms[name, 'peer'] / ms[name]
    rows.append(row)
  return rows


if __name__ == '__main__':
  main()
