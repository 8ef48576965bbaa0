"""The training step of ResNet-50: FF, MRL-E and MRL, at every size.

`x FF` and `peer / ours` are ratios of times of the same alternating rounds: a
`peer / ours` above 1 says that ours is faster.
"""

from typing import Any, NamedTuple

from benchmarks import head
from benchmarks.accelerator import peers
from benchmarks.accelerator import programs
from benchmarks.accelerator import rounds
from benchmarks.accelerator import train_steps
from benchmarks.accelerator.task import line
from benchmarks.accelerator.task import Task
from benchmarks.accelerator.train_steps import Step

_ALL = tuple(head.KINDS)


class Comparison(NamedTuple):
  """Steps that are timed in the same rounds.

  Attributes:
    steps: ours, of one encoder, size and batch.
    peers: heads whose step is timed in PyTorch, too.
  """

  steps: tuple[Step, ...]
  peers: tuple[str, ...]

  @property
  def title(self) -> str:
    step = self.steps[0]
    blurpool = ', BlurPool' if step.blurpool else ''
    return f'{step.encoder}, {step.pixels} px, batch {step.batch}{blurpool}'


def run(task: Task) -> None:
  sizes = task.sizes
  first, *others = sizes.pixels
  batch = sizes.batch
  of_all = lambda pixels, wanted: Comparison(
    tuple(Step(name, pixels, batch) for name in _ALL), wanted
  )
  of_mrl = lambda *step, **options: Comparison(
    (Step('MRL', *step, **options),), ('MRL',)
  )
  comparisons = [
    of_all(first, ('MRL',)),
    *(of_mrl(pixels, batch) for pixels in others[:1]),
    *(of_mrl(first, other) for other in sizes.sweep[:1]),
    *(of_mrl(pixels, batch) for pixels in others[1:]),
    *(of_mrl(first, other) for other in sizes.sweep[1:]),
    # From here on MRL is compiled already.
    *(of_all(pixels, ()) for pixels in others),
  ]
  if sizes.late_peers:
    comparisons.append(of_all(first, sizes.late_peers))
  comparisons.append(of_mrl(first, batch, blurpool=True))
  for comparison in comparisons:
    attempt(task, comparison)


def attempt(task: Task, comparison: Comparison) -> None:
  """Measures a comparison; see `Task.attempt`."""
  task.attempt(
    comparison.title,
    lambda: _measure(task, comparison),
    programs=len(comparison.steps) + len(comparison.peers),
  )


def _measure(task: Task, comparison: Comparison) -> list[dict[str, Any]]:
  sizes, steps = task.sizes, comparison.steps
  functions, rows = {}, {}
  trainings = programs.together(train_steps.makers(sizes, list(steps)))
  for step, training in zip(steps, trainings, strict=True):
    if isinstance(training, Exception):
      raise training
    loss = training.loss()
    rows[step.head] = {**training.program.about, 'loss': loss}
    functions[step.head] = training.run
  for step in steps:
    if step.head in comparison.peers and peers.device():
      try:
        peer, about = _peer(task, step)
      # Ours are measured all the same.
      except Exception as error:
        about, peer = {'peer fault': line(error)}, None
      rows[step.head] |= about
      if peer is not None:
        functions[step.head, 'peer'] = peer
  ms = rounds.alternate(functions, sizes)
  return [
    {
      'item': f'{step.head}, {comparison.title}',
      **_figures(step, ms, rows[step.head]),
    }
    for step in steps
  ]


def _peer(task: Task, step: Step):
  """PyTorch's step, warm; None if there is no such encoder."""
  from benchmarks.accelerator import torch_steps

  if not torch_steps.has_peer(task.sizes, step):
    return None, {}
  peers.forget()
  left = task.left()
  batch = train_steps.batch_of(task.sizes, step)
  peer = torch_steps.TorchTraining(task.sizes, step, batch)
  peer.run(1)
  return peer.run, {
    'peer': peer.source,
    'peer compile s': left - task.left(),
    'peer loss': peer.loss(),
  }


def _figures(
  step: Step, ms: dict[Any, float], row: dict[str, Any]
) -> dict[str, Any]:
  found = {'ms': ms[step.head], 'images/s': 1e3 * step.batch / ms[step.head]}
  if 'FF' in ms:
    found['x FF'] = ms[step.head] / ms['FF']
  if (step.head, 'peer') in ms:
    peer_ms = ms[step.head, 'peer']
    found['peer images/s'] = 1e3 * step.batch / peer_ms
    found['peer / ours'] = peer_ms / ms[step.head]
  if 'GFLOP' in row:
    found['TFLOP/s'] = row['GFLOP'] / ms[step.head]
  return {**found, **row}
