"""Trains, and resumes, to the same bits as if it had never stopped."""

import math

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import sharding
from mrl_jax import state as state_lib
from mrl_jax import writer as writer_lib
from mrl_jax.checkpoint import Checkpoints
from mrl_jax.data.damage import DamageLog
from mrl_jax.stages import build
from mrl_jax.stages import evaluate
from mrl_jax.workdir import Workdir


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes config.json, checkpoints/ and metrics.jsonl.

  Raises ValueError at the step whose loss is not finite; the checkpoints
  before it stay.
  """
  mesh = sharding.make_mesh(config.num_devices)
  sharding.check_batch_size('batch_size', config.batch_size, mesh)
  damage = DamageLog(config.max_damaged)
  source = build.source(config, config.train_split)
  eval_source = build.source(config, config.eval_split)
  batches, augment = build.train_batches(config, source, mesh, damage)
  eval_batches = build.evaluation_batches(config, eval_source, mesh, damage)
  steps_per_epoch = batches.steps_per_epoch
  total_steps = config.num_epochs * steps_per_epoch
  optimizer, schedule = build.optimizer(config, steps_per_epoch)
  graphdef, state = state_lib.create(
    build.model(config, source.num_classes), optimizer
  )
  state = jax.device_put(state, sharding.replicated(mesh))
  train_step = state_lib.make_train_step(
    graphdef,
    optimizer,
    augment,
    seed=config.seed,
    weights_G=build.nesting_weights(config),
    label_smoothing=config.label_smoothing,
    sharding=sharding.replicated(mesh),
  )
  eval_step = state_lib.make_eval_step(graphdef, build.normalize(config))
  if not jax.process_index():
    workdir.write_config()
  with Checkpoints(
    workdir.checkpoints, keep=config.keep_checkpoints
  ) as checkpoints:
    state, start_step = _resume(checkpoints, state, workdir)
    with writer_lib.MetricWriter(
      workdir.metrics, resume_step=start_step
    ) as writer:
      progress = writer_lib.Progress(
        start_step=start_step,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size,
        nesting_dims=config.nesting_dims,
        log_every_steps=config.log_every_steps,
      )

      def record(step, metrics):
        """Waits for a step's metrics; every step's loss must be finite."""
        metrics = jax.device_get(metrics)
        if not math.isfinite(metrics['loss'] + metrics['grad_norm']):
          raise ValueError(
            f'loss {metrics["loss"]} and gradient norm {metrics["grad_norm"]} '
            f'at step {step}: training stops; the last good checkpoint is '
            f'of step {checkpoints.latest_step or 0}'
          )
        rate = progress.update(step, metrics['loss_G'])
        if rate is not None:
          losses = evaluate.per_width(
            'train/loss', config.nesting_dims, metrics['loss_G']
          )
          values = {
            'train/loss': metrics['loss'],
            **losses,
            'train/grad_norm': metrics['grad_norm'],
            'train/learning_rate': schedule(step - 1),
            'train/images_per_second': rate,
          }
          writer.write(step, values)

      pending = None
      for step, batch in zip(
        range(start_step + 1, total_steps + 1),
        batches.batches(start_step),
        strict=False,
      ):
        if 'images' not in batch:
          batch = sharding.shard_batch(batch, mesh)
        state, metrics = train_step(state, batch)
        # One step late, so that the device always has the next one to do.
        if pending:
          record(*pending)
        pending = (step, metrics)
        if step % steps_per_epoch and step != total_steps:
          continue
        record(*pending)
        pending = None
        epoch = step // steps_per_epoch
        last = step == total_steps
        if line := damage.report():
          progress.say(line)
        score = None
        if last or epoch % config.eval_every_epochs == 0:
          sums = evaluate.accumulate(eval_step, state, eval_batches, mesh)
          values = evaluate.linear_metrics(config.nesting_dims, sums)
          writer.write(step, values)
          score = values[f'val/top1@{config.nesting_dims[-1]}']
          progress.say(
            f'epoch {epoch}  top-1 '
            + ' '.join(
              f'@{dim} {values[f"val/top1@{dim}"]:.2f}'
              for dim in config.nesting_dims
            )
          )
        if last or epoch % config.checkpoint_every_epochs == 0:
          checkpoints.save(state, workdir.config, score)
        progress.resume(step)
      progress.close()


def _resume(
  checkpoints: Checkpoints, state: state_lib.State, workdir: Workdir
) -> tuple[state_lib.State, int]:
  """The latest checkpoint's state and step, or the fresh ones."""
  step = checkpoints.latest_step
  if step is None:
    return state, 0
  where = workdir.checkpoints / str(step)
  workdir.check_config(checkpoints.read_config(step), where)
  state, _ = checkpoints.restore(state, step)
  assert int(np.asarray(state.step)) == step
  writer_lib.say(f'train: resumes at step {step}')
  return state, step
