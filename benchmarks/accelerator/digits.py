"""A training on scikit-learn's digits to its accuracy, as configs/digits_mrl.

The images are taken from scikit-learn as `mrl_jax.data.sources.digits` takes
them, without TFDS, in scikit-learn's order.
"""

import dataclasses
import functools
import time
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from benchmarks.accelerator import programs
from benchmarks.accelerator import splits as splits_lib
from benchmarks.accelerator.sizes import Sizes
from benchmarks.accelerator.task import Task
from mrl_jax import models
from mrl_jax.data.batches import augment
from mrl_jax.models import resnet
from mrl_jax.training import inference
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib

# Of configs/digits_mrl.py, which needs ml_collections; a test compares them.
RECIPE = {
  'encoder': 'resnet8',
  'nesting_dims': (2, 4, 8, 16, 32, 64),
  'batch_size': 64,
  'num_epochs': 30,
  'learning_rate': 0.05,
  'schedule': 'cyclic',
  'peak_epoch': 2.0,
  'momentum': 0.9,
  'weight_decay': 5e-4,
  'decay_mask': 'reference',
  'label_smoothing': 0.1,
  'shift': 1,
  'mean': (0.3, 0.3, 0.3),
  'std': (0.38, 0.38, 0.38),
  'dtype': 'float32',
  'seed': 0,
}
_CLASSES = 10


def run(task: Task) -> None:
  # One device: a batch of 64 digits is not worth splitting.
  task.attempt('training', lambda: _train(task.sizes))


def load() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Images uint8 [N, 8, 8, 3] and labels int32 [N] of `train` and `test`."""
  from sklearn import datasets

  digits = datasets.load_digits()
  grey_NHW = (digits.images * (255 / 16)).round().astype(np.uint8)
  images_NHWC = np.repeat(grey_NHW[..., None], 3, axis=3)
  label_N = digits.target.astype(np.int32)
  is_test_N = np.arange(len(label_N)) % 4 == 3
  return {
    'train': (images_NHWC[~is_test_N], label_N[~is_test_N]),
    'test': (images_NHWC[is_test_N], label_N[is_test_N]),
  }


def _train(sizes: Sizes) -> dict[str, Any]:
  splits = load()
  mesh = sharding.make_mesh(1)
  batches = splits_lib.resident_batches(
    *splits['train'], RECIPE['batch_size'], mesh
  )
  optimizer = _optimizer(batches.steps_per_epoch)
  with programs.on_host():
    graphdef, state = state_lib.create(_classifier(sizes), optimizer)
  state = jax.device_put(state, sharding.replicated(mesh))
  normalize = functools.partial(
    augment.normalize, mean=RECIPE['mean'], std=RECIPE['std']
  )

  def shifted(key, batch, step):
    image_NHWC, label_N = batches.take(batch, step)
    shift_key, _ = jax.random.split(key)
    image_NHWC = augment.random_shift(shift_key, image_NHWC, RECIPE['shift'])
    return normalize(image_NHWC), label_N

  step = train_step_lib.make_train_step(
    graphdef,
    optimizer,
    shifted,
    seed=RECIPE['seed'],
    label_smoothing=RECIPE['label_smoothing'],
  )
  stream = batches.batches(0)
  program = programs.compile_(sizes, step, state, next(stream))
  count = RECIPE['num_epochs'] * batches.steps_per_epoch
  count = sizes.digits_steps or count
  stream = batches.batches(0)
  start = time.perf_counter()
  metrics = None
  for _ in range(count):
    state, metrics = program.call(state, next(stream))
  loss = float(metrics['loss'])
  seconds = time.perf_counter() - start
  top1 = _top1(sizes, graphdef, state, normalize, splits['test'])
  return {
    'steps': count,
    'compile s': program.about['compile s'],
    'training s': seconds,
    'steps/s': count / seconds,
    'loss': loss,
    **{f'top-1@{m}, %': top1[m] for m in RECIPE['nesting_dims']},
  }


def _classifier(sizes: Sizes) -> models.Classifier:
  variant = models.ENCODERS[RECIPE['encoder']]
  if sizes.tiny:
    # As wide, with a single block.
    variant = dataclasses.replace(variant, depths=(1,), widths=(64,))
  options = {
    'dtype': jnp.dtype(RECIPE['dtype']),
    'rngs': nnx.Rngs(RECIPE['seed']),
  }
  return models.Classifier(
    resnet.ResNet(variant, **options),
    RECIPE['nesting_dims'],
    _CLASSES,
    **options,
  )


def _optimizer(steps_per_epoch: int):
  schedule = optim.schedule(
    RECIPE['schedule'],
    RECIPE['learning_rate'],
    steps_per_epoch=steps_per_epoch,
    num_epochs=RECIPE['num_epochs'],
    peak_epoch=RECIPE['peak_epoch'],
  )
  return optim.sgd(
    schedule,
    momentum=RECIPE['momentum'],
    weight_decay=RECIPE['weight_decay'],
    mask=RECIPE['decay_mask'],
  )


def _top1(sizes, graphdef, state, normalize, split) -> dict[int, float]:
  """Top-1 in percent at each nesting dim, on all images at once."""
  images_NHWC, label_N = split
  batch = {
    'image': jnp.asarray(images_NHWC),
    'label': jnp.asarray(label_N),
    'mask': jnp.ones(len(label_N), bool),
  }
  step = inference.make_eval_step(graphdef, normalize)
  model = state.params, state.batch_stats
  step = programs.compile_(sizes, step, *model, batch).call
  sums = inference.evaluate(step, state.params, state.batch_stats, [batch])
  return {
    m: 100 * float(sums['top1'][g] / sums['count'])
    for g, m in enumerate(RECIPE['nesting_dims'])
  }
