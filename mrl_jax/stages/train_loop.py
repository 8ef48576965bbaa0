"""The loop over steps and epochs: train, log, evaluate, save."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.input_wait import InputWait
from mrl_jax.losses import metrics as metrics_lib
from mrl_jax.training import inference
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.preemption import Preemption
from mrl_jax.training.preemption import Stopped
from mrl_jax.training.profile import Profile
from mrl_jax.training.state import State
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter


@dataclasses.dataclass(kw_only=True)
class Loop:
  """The training loop, with everything it reads and writes."""

  config: ConfigDict
  saved_config: Mapping[str, Any]
  saved_dataset: Mapping[str, Any]
  steps_per_epoch: int
  start_step: int
  state: State
  train_step: Callable
  eval_step: Callable
  eval_batches: Iterable
  checkpoints: Checkpoints
  writer: MetricWriter
  progress: terminal.Progress
  preemption: Preemption
  profile: Profile
  damage: DamageLog
  input: InputWait
  preempted: bool = False

  def run(self) -> None:
    """Trains until the last epoch has ended, or a signal has come."""
    self._measure_if_it_was_left()
    done = self.start_step
    while done < self._total_steps:
      for step, metrics in inference.one_behind(self._epoch(done)):
        self._record(step, metrics)
        done = step
      self._end_epoch(done)
    self.preemption.end_if_noticed()

  @property
  def _total_steps(self) -> int:
    return self.config.num_epochs * self.steps_per_epoch

  def _epoch(self, step: int) -> Iterator[tuple[int, Mapping[str, jax.Array]]]:
    """Trains to the end of the epoch, or to a signal; yields each step."""
    while True:
      step += 1
      batch = next(self.input)
      self.profile.before(step, self.state)
      self.state, metrics = self.train_step(self.state, batch)
      yield step, metrics
      self.preempted = self.preemption.noticed(step)
      if self.preempted or not step % self.steps_per_epoch:
        return

  def _record(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Waits for a step's metrics, which must be finite, and shows them."""
    metrics = jax.device_get(metrics)
    _check_finite(step, metrics, self.checkpoints.latest_step)
    rate = self.progress.update(step, metrics['loss_G'])
    if rate is not None:
      values = {}
      for name, value in metrics.items():
        if name.endswith('_G'):
          values |= metrics_lib.per_width(
            f'train/{name[:-2]}', self.config.nesting_dims, value
          )
        else:
          values[f'train/{name}'] = value
      values[f'train/{self.progress.things}_per_second'] = rate
      values['train/input_wait'] = self.input.share()
      self.writer.write(step, values)
    if step == self.start_step + 1:
      self.progress.resume(step)  # Compilation is not speed.
      self.input.restart()

  def _end_epoch(self, step: int) -> None:
    """Evaluates and saves as the config says; after a signal it only saves."""
    config, preemption = self.config, self.preemption
    for line in filter(None, (self.damage.report(), self.input.report())):
      self.progress.say(line)
    epoch = step // self.steps_per_epoch
    last = step == self._total_steps
    score = None
    if not self.preempted and (last or epoch % config.eval_every_epochs == 0):
      try:
        score = self._measure(step)
      except Stopped:
        self.preempted = True
    if self.preempted:
      self.progress.say(
        f'{preemption.name}: saves step {step}, from which the same command '
        'goes on'
      )
      self._save(None)
      preemption.end()
    if last or epoch % config.checkpoint_every_epochs == 0:
      self._save(score)
      self.progress.resume(step)
    self.input.restart()

  def _save(self, score: float | None) -> None:
    self.checkpoints.save(
      self.state, self.saved_config, score, self.saved_dataset
    )

  def _measure(self, step: int) -> float:
    """Evaluates; returns the top-1 of the last width. May raise Stopped."""
    dims = self.config.nesting_dims
    sums = inference.evaluate(
      self.eval_step,
      self.state.params,
      self.state.batch_stats,
      self.preemption.until(self.eval_batches),
    )
    values = metrics_lib.from_sums(dims, sums)
    self.writer.replace(step, values)
    shown = ' '.join(f'@{dim} {values[f"val/top1@{dim}"]:.2f}' for dim in dims)
    self.progress.say(f'epoch {step // self.steps_per_epoch}  top-1 % {shown}')
    self.progress.resume(step)
    return values[f'val/top1@{dims[-1]}']

  def _measure_if_it_was_left(self) -> None:
    """Evaluates the restored checkpoint if a signal came before that."""
    step = self.start_step
    epoch, within = divmod(step, self.steps_per_epoch)
    is_due = (
      not epoch % self.config.eval_every_epochs or step == self._total_steps
    )
    if not step or within or not is_due or self.checkpoints.is_scored(step):
      return
    try:
      self.checkpoints.set_score(step, self._measure(step))
    except Stopped:
      self.preemption.end()


def _check_finite(
  step: int, metrics: Mapping[str, Any], latest_step: int | None
) -> None:
  names = ('loss', 'grad_norm', 'update_norm')
  if not math.isfinite(sum(metrics[name] for name in names)):
    shown = ', '.join(f'{name} {metrics[name]:g}' for name in names)
    raise ValueError(
      f'{shown} at step {step}: training stops; the last good checkpoint is of '
      f'step {latest_step or 0}'
    )


def open_writer(workdir: Workdir, start_step: int) -> MetricWriter:
  """Opens the metrics, and drops the rows of later steps, with a line.

  Such rows are of a killed run, or of a checkpoint that has been deleted.
  """
  if not jax.process_index():
    workdir.unmark(*workdir.stages_after(start_step))
  writer = MetricWriter(workdir.metrics, resume_step=start_step)
  if writer.num_dropped:
    terminal.say(
      f'train: {writer.num_dropped} rows of metrics.jsonl are of steps after '
      f'{start_step} and are dropped: training writes its own again, other '
      'stages have to run again'
    )
  return writer
