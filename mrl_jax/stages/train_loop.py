"""The loop over steps and epochs: train, log, evaluate, save."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import math
from typing import Any

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.input_wait import InputWait
from mrl_jax.data.sources import provenance
from mrl_jax.losses import metrics as metrics_lib
from mrl_jax.training import inference
from mrl_jax.training import sharding
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.preemption import Preemption
from mrl_jax.training.preemption import Stopped
from mrl_jax.training.profile import Profile
from mrl_jax.training.state import State
from mrl_jax.workdir import files
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


@contextlib.contextmanager
def opened(
  config: ConfigDict,
  workdir: Workdir,
  dataset: Any,
  state: State,
  batches: Any,
  *,
  things: str = 'images',
  wait: Callable[[Iterator], InputWait] = InputWait,
) -> Iterator[dict[str, Any]]:
  """Yields the arguments of `Loop` that all trainings have in common.

  Writes config.json, restores the latest checkpoint into `state`, and opens
  what the loop writes and the batches that it reads. `dataset` is the record of
  the data, `things` what progress counts, `wait` makes an `InputWait`.
  """
  with contextlib.ExitStack() as stack:
    if not jax.process_index():
      workdir.write_config()
      size = sum(x.nbytes for x in jax.tree.leaves(state))
      files.check_space(workdir.path, size, 'a checkpoint')
    sharding.barrier('config is written')
    checkpoints = stack.enter_context(
      Checkpoints(workdir.checkpoints, keep=config.keep_checkpoints)
    )
    start_step = checkpoints.latest_step or 0
    if start_step:
      fresh, state = state, checkpoints.restore(state, start_step)
      # The caller refers to it, so that it would stay on the devices.
      for array in jax.tree.leaves(fresh):
        array.delete()
      terminal.say(f'train: resumes at step {start_step}')
    yield {
      'config': config,
      'saved_config': workdir.config,
      'saved_dataset': provenance.plain(dataset),
      'steps_per_epoch': batches.steps_per_epoch,
      'start_step': start_step,
      'state': state,
      'checkpoints': checkpoints,
      'writer': stack.enter_context(open_writer(workdir, start_step)),
      'progress': stack.enter_context(
        terminal.Progress(
          start_step=start_step,
          total_steps=config.num_epochs * batches.steps_per_epoch,
          steps_per_epoch=batches.steps_per_epoch,
          batch_size=config.batch_size,
          nesting_dims=config.nesting_dims,
          log_every_steps=config.log_every_steps,
          things=things,
        )
      ),
      'preemption': stack.enter_context(Preemption()),
      'profile': stack.enter_context(Profile(config.profile, workdir.profile)),
      # Its threads read ahead: they must end however the training does.
      'input': wait(
        stack.enter_context(contextlib.closing(batches.batches(start_step)))
      ),
    }


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
