"""Trains, and resumes, to the same bits as if it had never stopped."""

from collections.abc import Callable
import contextlib
import itertools
import math
import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.input_wait import InputWait
from mrl_jax.data.sources import provenance
from mrl_jax.losses import metrics as metrics_lib
from mrl_jax.stages import build
from mrl_jax.stages import init_from
from mrl_jax.stages import recorded
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.preemption import Preemption
from mrl_jax.training.preemption import Stopped
from mrl_jax.training.profile import Profile
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter

# That the mean and scale of vectors are taken of.
_FIT_ROWS = 32768


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  del config
  return [workdir.checkpoints]


def run(
  config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint | None = None
) -> None:
  """Writes config.json, checkpoints/, metrics.jsonl, tensorboard/ and profile/.

  Raises ValueError at the step whose loss is not finite; the checkpoints
  before it stay. SIGTERM and Ctrl-C end it within a step, which is saved; if it
  ends an epoch, its evaluation is left to whoever resumes. `checkpoint` is not
  used: a training goes on from the latest.
  """
  del checkpoint
  mesh = sharding.make_mesh(**config.mesh)
  sharding.check_batch_size(config.batch_size, mesh, config.micro_batches)
  if config.loss_kernel == 'pallas':
    _check_can_tile(mesh)
  damage = DamageLog(config.max_damaged)
  dataset, source, eval_source = recorded.open_for_training(config, workdir)
  saved_dataset = provenance.plain(dataset)
  kind = 'vectors' if config.embeddings else 'images'
  terminal.say(
    f'train: {len(source):,} {kind} of {source.num_classes:,} classes, '
    f'{len(eval_source):,} to evaluate on'
  )
  batches, augment = build.train_batches(config, source, mesh, damage)
  steps_per_epoch = batches.steps_per_epoch
  total_steps = config.num_epochs * steps_per_epoch
  optimizer, schedule = build.optimizer(config, steps_per_epoch)
  model = build.model(config, len(dataset.class_names))
  if not workdir.latest_step():
    if config.embeddings:
      model.encoder.fit(source.sample(_FIT_ROWS, seed=config.seed))
    init_from.initialise(config, model, dataset.class_names)
  graphdef, state = state_lib.create(
    model, optimizer, trainable=config.trainable
  )
  layout = sharding.of_state(state, mesh, fsdp=config.fsdp)
  state = jax.device_put(state, layout)
  train_step = state_lib.make_train_step(
    graphdef,
    optimizer,
    augment,
    seed=config.seed,
    trainable=config.trainable,
    schedule=schedule,
    weights_G=tuple(config.nesting_weights),
    granularities_per_step=config.granularities_per_step,
    label_smoothing=config.label_smoothing,
    micro_batches=config.micro_batches,
    sharding=(layout, sharding.replicated(mesh)),
  )
  evaluate = _make_evaluate(
    config,
    state_lib.make_eval_step(
      graphdef, build.normalize(config), sharding=sharding.replicated(mesh)
    ),
    build.evaluation_batches(config, eval_source, mesh, damage),
  )
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
      state = checkpoints.restore(state, start_step)
      terminal.say(f'train: resumes at step {start_step}')
    writer = stack.enter_context(_open_writer(workdir, start_step))
    progress = stack.enter_context(
      terminal.Progress(
        start_step=start_step,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size,
        nesting_dims=config.nesting_dims,
        log_every_steps=config.log_every_steps,
      )
    )
    preemption = stack.enter_context(Preemption())
    profile = stack.enter_context(Profile(config.profile, workdir.profile))
    # Closed at the end, whatever happens: its threads work ahead.
    stream = stack.enter_context(
      contextlib.closing(batches.batches(start_step))
    )
    wait = InputWait(stream)

    def record(step, metrics):
      """Waits for a step's metrics, which must be finite, and shows them."""
      metrics = jax.device_get(metrics)
      _check_finite(step, metrics, checkpoints.latest_step)
      rate = progress.update(step, metrics['loss_G'])
      if rate is not None:
        loss_G = metrics.pop('loss_G')
        values = {f'train/{name}': value for name, value in metrics.items()}
        values |= metrics_lib.per_width(
          'train/loss', config.nesting_dims, loss_G
        )
        values['train/images_per_second'] = rate
        values['train/input_wait'] = wait.share()
        writer.write(step, values)
      if step == start_step + 1:
        progress.resume(step)  # Compilation is not speed.
        wait.restart()

    def measure(step, state):
      """Evaluates, at the end of an epoch; returns the score."""
      values = evaluate(state, preemption)
      writer.replace(step, values)
      epoch = step // steps_per_epoch
      progress.say(_evaluation_line(epoch, config.nesting_dims, values))
      progress.resume(step)
      return values[f'val/top1@{config.nesting_dims[-1]}']

    epoch, within = divmod(start_step, steps_per_epoch)
    due = not epoch % config.eval_every_epochs or start_step == total_steps
    if epoch and not within and due and not checkpoints.is_scored(start_step):
      # A signal came before it.
      try:
        checkpoints.set_score(start_step, measure(start_step, state))
      except Stopped:
        preemption.end()
    pending = None
    left = itertools.islice(wait, total_steps - start_step)
    for step, batch in enumerate(left, start_step + 1):
      profile.before(step, state)
      state, metrics = train_step(state, batch)
      # One step late, so that the device always has the next one to do.
      if pending:
        record(*pending)
      pending = (step, metrics)
      epoch, within = divmod(step, steps_per_epoch)
      last = step == total_steps
      preempted = preemption.noticed(step)
      if within and not preempted:
        continue
      record(*pending)
      pending = None
      for line in filter(None, (damage.report(), wait.report())):
        progress.say(line)
      score = None
      if not preempted and (last or epoch % config.eval_every_epochs == 0):
        try:
          score = measure(step, state)
        except Stopped:
          preempted = True
      if preempted:
        progress.say(
          f'{preemption.name}: saves step {step}, from which the same command '
          'goes on'
        )
        checkpoints.save(state, workdir.config, None, saved_dataset)
        preemption.end()
      if last or epoch % config.checkpoint_every_epochs == 0:
        checkpoints.save(state, workdir.config, score, saved_dataset)
        progress.resume(step)
      wait.restart()
    preemption.end_if_noticed()


def _open_writer(workdir: Workdir, start_step: int) -> MetricWriter:
  """Drops what is known of later steps, and says so.

  A run that was killed has left it, or a checkpoint has been deleted; stages
  that read that one are to run again.
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


def _check_can_tile(mesh: jax.sharding.Mesh) -> None:
  platform = jax.default_backend()
  if platform == 'cpu' or mesh.size > 1:
    raise ValueError(
      f"loss_kernel 'pallas' on {mesh.size} {platform} devices: "
      'must be one GPU or TPU'
    )


def _make_evaluate(
  config: ConfigDict, eval_step, batches
) -> Callable[[state_lib.State, Preemption], dict[str, float]]:
  def evaluate(state, preemption):
    sums = state_lib.evaluate(
      eval_step, state.params, state.batch_stats, preemption.until(batches)
    )
    return metrics_lib.from_sums(config.nesting_dims, sums)

  return evaluate


def _check_finite(step, metrics, latest_step):
  names = ('loss', 'grad_norm', 'update_norm')
  if not math.isfinite(sum(metrics[name] for name in names)):
    shown = ', '.join(f'{name} {metrics[name]:g}' for name in names)
    raise ValueError(
      f'{shown} at step {step}: training stops; the last good checkpoint is of '
      f'step {latest_step or 0}'
    )


def _evaluation_line(epoch, dims, values) -> str:
  shown = ' '.join(f'@{dim} {values[f"val/top1@{dim}"]:.2f}' for dim in dims)
  return f'epoch {epoch}  top-1 % {shown}'
