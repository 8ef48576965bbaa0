"""The training step of other encoders with nested heads, beside PyTorch's."""

from benchmarks.accelerator import steps
from benchmarks.accelerator.task import Task
from benchmarks.accelerator.train_steps import Step


def run(task: Task) -> None:
  for encoder, pixels, batch in task.sizes.encoders:
    step = Step('MRL', pixels, batch, encoder)
    steps.attempt(task, steps.Comparison((step,), ('MRL',)))
