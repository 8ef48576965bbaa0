"""The peak of memory of the ResNet-50 step, in a process of its own.

What the device's allocator counted stands beside what the compiler planned.
"""

from typing import Any

import jax

from benchmarks.accelerator.task import Task
from benchmarks.accelerator.train_steps import Step
from benchmarks.accelerator.train_steps import Training


def run(task: Task, head: str) -> None:
  task.attempt(head, lambda: _measure(task, head))


def _measure(task: Task, head: str) -> dict[str, Any]:
  step = Step(head, task.sizes.pixels[0], task.sizes.batch)
  # Compiled in part `resnet`, and found in the cache.
  training = Training(task.sizes, step)
  training.run(2)
  stats = jax.local_devices()[0].memory_stats() or {}
  to_mb = lambda name: stats[name] / 1e6 if name in stats else None
  return {
    'pixels': step.pixels,
    'batch': step.batch,
    'peak MB': to_mb('peak_bytes_in_use'),
    'in use MB': to_mb('bytes_in_use'),
    'largest array MB': to_mb('largest_alloc_size'),
    **training.program.about,
  }
