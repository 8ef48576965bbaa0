"""The training step with its images on the devices, and sent by the host.

Resident: the whole split lies on the devices, a part on each, and the step
takes its rows and crops them. Sent: the host gathers ready crops from memory,
in a thread that is a batch ahead, and sends them. The step alone is on one
batch.
"""

from collections.abc import Iterator
import concurrent.futures
import itertools
from typing import Any

import jax
import numpy as np

from benchmarks import imagenet
from benchmarks.accelerator import rounds
from benchmarks.accelerator import splits
from benchmarks.accelerator import train_steps
from benchmarks.accelerator.task import Task
from benchmarks.accelerator.train_steps import Step
from benchmarks.accelerator.train_steps import Training
from mrl_jax.data.batches import augment
from mrl_jax.training import sharding

_SCALE = (0.08, 1.0)


def run(task: Task) -> None:
  for count in sorted({1, jax.device_count()}):
    task.attempt(
      f'MRL, {count} device{"s" if count > 1 else ""}',
      lambda count=count: _measure(task, count),
    )


def _measure(task: Task, num_devices: int) -> dict[str, Any]:
  sizes = task.sizes
  step = Step('MRL', sizes.pixels[0], sizes.batch * num_devices)
  resident = _Resident(task, step, num_devices)
  sent = Training(sizes, step, num_devices=num_devices)
  crops = _crops(task, step)
  functions = {
    'resident': resident.run,
    'sent': lambda n: sent.run_on(_sent(crops, step, sent.mesh, n)),
    'step': sent.run,
  }
  ms = rounds.alternate(functions, sizes)
  rate = {name: 1e3 * step.batch / ms[name] for name in functions}
  count, side = sizes.resident
  return {
    'images': count,
    'their pixels': side,
    'step images/s': rate['step'],
    'resident images/s': rate['resident'],
    'sent images/s': rate['sent'],
    'resident / step': rate['resident'] / rate['step'],
    'sent / step': rate['sent'] / rate['step'],
    'compile s': resident.training.program.about['compile s'],
  }


class _Resident:
  """A training whose images lie on the device."""

  def __init__(self, task: Task, step: Step, num_devices: int):
    count, side = task.sizes.resident
    rng = np.random.default_rng(0)
    images_NHWC = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    label_N = rng.integers(0, task.sizes.classes, count).astype(np.int32)
    mesh = sharding.make_mesh(num_devices)
    batches = splits.resident_batches(images_NHWC, label_N, step.batch, mesh)
    self._stream = batches.batches(0)

    def augmented(key, batch, number):
      image_NHWC, label_N = batches.take(batch, number)
      crop_key, flip_key = jax.random.split(key)
      image_NHWC = augment.random_resized_crop(
        crop_key, image_NHWC, step.pixels, _SCALE
      )
      image_NHWC = augment.random_flip(flip_key, image_NHWC)
      return imagenet.normalize(image_NHWC), label_N

    self.training = Training(
      task.sizes,
      step,
      num_devices=num_devices,
      augmented=augmented,
      batch=next(batches.batches(0)),
    )

  def run(self, n: int) -> None:
    self.training.run_on(itertools.islice(self._stream, n))


def _crops(task: Task, step: Step) -> dict[str, np.ndarray]:
  """Crops in the host's memory, of which batches are gathered."""
  count = min(task.sizes.resident[0], 16 * step.batch)
  return train_steps.batch_of(task.sizes, step._replace(batch=count))


def _sent(
  crops: dict[str, np.ndarray], step: Step, mesh: jax.sharding.Mesh, n: int
) -> Iterator[dict[str, jax.Array]]:
  """Yields n batches, each gathered and sent while the one before trains."""
  rng = np.random.default_rng(0)

  def send(rows_N):
    batch = {name: values[rows_N] for name, values in crops.items()}
    return sharding.shard_batch(batch, mesh)

  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    orders = (
      rng.integers(0, len(crops['label']), step.batch) for _ in range(n)
    )
    waiting = pool.submit(send, next(orders))
    for rows_N in orders:
      ready, waiting = waiting, pool.submit(send, rows_N)
      yield ready.result()
    yield waiting.result()
