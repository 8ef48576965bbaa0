"""Embeddings from the exported program (StableHLO), as `encode` has them.

The export is made as the stage of that name makes it: for every platform and
any batch size, with the parameters inside. Images come from the host and
embeddings go back to it.
"""

import time
from typing import Any

import jax
from jax import export as jax_export
import numpy as np

from benchmarks import imagenet
from benchmarks.accelerator import programs
from benchmarks.accelerator import rounds
from benchmarks.accelerator import train_steps
from benchmarks.accelerator.task import Task
from benchmarks.accelerator.train_steps import Step
from mrl_jax.training import inference
from mrl_jax.training import state as state_lib

_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def run(task: Task) -> None:
  task.attempt('encode', lambda: _measure(task))


def _measure(task: Task) -> dict[str, Any]:
  sizes = task.sizes
  # Evaluation has larger images than training.
  step = Step('MRL', max(sizes.pixels), sizes.batch)
  with programs.on_host():
    model = train_steps.classifier(sizes, step)
    graphdef, state = state_lib.create(model, train_steps.optimizer(step))
  embed = inference.make_embed_step(graphdef, imagenet.normalize)
  on_host = jax.device_get((state.params, state.batch_stats))
  arrays = jax.device_put(on_host, jax.local_devices()[0])
  start = time.perf_counter()
  artifact = _artifact(embed, on_host, step)
  export_seconds = time.perf_counter() - start
  start = time.perf_counter()
  call = jax.jit(jax_export.deserialize(artifact).call)
  read_seconds = time.perf_counter() - start
  image = train_steps.batch_of(sizes, step)['image']
  exported = programs.compile_(sizes, call, image)
  ours = programs.compile_(sizes, embed, *arrays, {'image': image})
  direct = lambda: np.asarray(ours.call(*arrays, {'image': image}))
  encoded = lambda: np.asarray(exported.call(image))
  embedding_ND, expected_ND = encoded(), direct()
  ms = rounds.alternate(
    {'export': rounds.repeated(encoded), 'model': rounds.repeated(direct)},
    sizes,
  )
  return {
    'pixels': step.pixels,
    'batch': step.batch,
    'images/s': 1e3 * step.batch / ms['export'],
    'model images/s': 1e3 * step.batch / ms['model'],
    'model / export': ms['model'] / ms['export'],
    'off by, %': _difference(embedding_ND, expected_ND),
    'export MB': len(artifact) / 1e6,
    'export s': export_seconds,
    'read s': read_seconds,
    **exported.about,
  }


def _artifact(embed, arrays, step: Step) -> bytes:
  side = step.pixels
  shape = jax_export.symbolic_shape(f'batch, {side}, {side}, 3')
  exported = jax_export.export(
    jax.jit(lambda image: embed(*arrays, {'image': image})),
    platforms=_PLATFORMS,
  )(jax.ShapeDtypeStruct(shape, np.uint8))
  return bytes(exported.serialize())


def _difference(found_ND: np.ndarray, expected_ND: np.ndarray) -> float:
  """The length of the difference, in percent of that expected."""
  off = np.linalg.norm(found_ND - expected_ND)
  return 100 * float(off / np.linalg.norm(expected_ND))
