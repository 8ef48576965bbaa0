"""Times the step of fine-tuning beside the forward pass alone.

    python -m benchmarks.finetune [--json=FILE] [--encoder=resnet50]
                                  [--batch_size=16] [--image_size=64,96]

The parts that train are each of the paper's settings (table 26), and
everything. The step is the one training runs: normalisation, forward, backward,
SGD; the forward pass is that of the evaluation mode, with the nine heads' loss.
Medians of alternating runs, in one process; `operations` is what XLA counts.
"""

import argparse

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from benchmarks import imagenet
from benchmarks import timing
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.models import resnet
from mrl_jax.training import optim
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.training import trainable

NUM_CLASSES = 1000
# arXiv 2205.13147, table 26; and all parameters.
SETTINGS = {
  name: trainable.parse((name,))
  for name in (
    'head',
    'layer4.2.conv3, head',
    'layer4.2.conv2, layer4.2.conv3, head',
    'layer4.2, head',
  )
} | {'everything': ()}


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.finetune', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--json', help='file for the figures')
  add('--encoder', default='resnet50', choices=tuple(resnet.VARIANTS))
  add('--batch_size', type=int, default=16)
  add('--image_size', default='64,96', help='one or more, with commas between')
  add('--rounds', type=int, default=7)
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  args = parser.parse_args()
  record = {'environment': timing.environment('jax', 'jaxlib'), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  for image_size in map(int, args.image_size.split(',')):
    title = (
      f'{args.encoder}, batch {args.batch_size}, {image_size} pixels, '
      f'{args.dtype}'
    )
    record[title] = _steps(args, image_size)
    timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def _batch(args, image_size: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  shape = (args.batch_size, image_size, image_size, 3)
  return {
    'image': rng.integers(0, 256, shape, np.uint8),
    'label': rng.integers(0, NUM_CLASSES, args.batch_size).astype(np.int32),
  }


def _model(args) -> models.Classifier:
  return models.Classifier(
    args.encoder,
    nesting.doubling(8, models.num_features(args.encoder)),
    NUM_CLASSES,
    dtype=jnp.dtype(args.dtype),
    blurpool=True,
    rngs=nnx.Rngs(0),
  )


def _normalize(batch):
  return imagenet.normalize(batch['image'])


def _forward(args, batch):
  """Returns a call of the forward pass, and XLA's count of its operations."""
  graphdef, params, batch_stats = nnx.split(
    _model(args), nnx.Param, nnx.BatchStat
  )

  @jax.jit
  def forward(params, batch_stats, batch):
    model = nnx.merge(graphdef, params, batch_stats)
    model = nnx.view(model, use_running_average=True)
    embedding_ND = model.encoder(_normalize(batch))
    return model.head.loss(embedding_ND, batch['label'])

  compiled = forward.lower(params, batch_stats, batch).compile()
  run = lambda: jax.block_until_ready(compiled(params, batch_stats, batch))
  return run, compiled.cost_analysis()['flops']


def _step(args, patterns, batch):
  """Returns a call of a training step, and XLA's count of its operations."""
  optimizer = optim.sgd(0.01, momentum=0.9, weight_decay=1e-4, mask='reference')
  graphdef, state = state_lib.create(
    _model(args), optimizer, trainable=patterns
  )
  step = train_step_lib.make_train_step(
    graphdef,
    optimizer,
    lambda key, batch, step: (_normalize(batch), batch['label']),
    seed=0,
    trainable=patterns,
  )
  compiled = step.lower(state, batch).compile()

  def run():
    nonlocal state
    state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))

  return run, compiled.cost_analysis()['flops']


def _steps(args, image_size: int) -> list[timing.Row]:
  batch = jax.device_put(_batch(args, image_size))
  calls = {'forward alone': _forward(args, batch)}
  calls |= {
    name: _step(args, patterns, batch) for name, patterns in SETTINGS.items()
  }
  ms = timing.medians(
    {name: run for name, (run, _) in calls.items()}, args.rounds
  )
  first = 'forward alone'
  return [
    {
      'trains': name,
      'ms': ms[name],
      'x forward': ms[name] / ms[first],
      'operations x forward': operations / calls[first][1],
    }
    for name, (_, operations) in calls.items()
  ]


if __name__ == '__main__':
  main()
