"""Trains a model; a resumed training gives the same bits as one in one go."""

import pathlib

import jax
from ml_collections import ConfigDict
import msgspec

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.models import batch_norm
from mrl_jax.stages import build
from mrl_jax.stages import init_from
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages import train_loop
from mrl_jax.training import inference
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir

# Rows sampled to fit the adaptor's mean and scale.
_FIT_ROWS = 32768


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.checkpoints]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes config.json, checkpoints/, metrics.jsonl, tensorboard/ and profile/.

  Training goes on from the latest checkpoint, whatever `checkpoint` is. SIGTERM
  and Ctrl-C end it after the current step, whose state is saved; if that step
  ends an epoch, the evaluation is left to the run that resumes. Raises
  ValueError at a step whose loss is not finite; earlier checkpoints stay.
  """
  mesh = sharding.make_mesh(**config.mesh)
  damage = DamageLog(config.max_damaged)
  dataset, source, eval_source = recorded.open_for_training(config, workdir)
  things = 'vectors' if config.embeddings else 'images'
  terminal.say(
    f'train: {len(source):,} {things} of {source.num_classes:,} classes, '
    f'{len(eval_source):,} to evaluate on'
  )
  is_begun = workdir.latest_step() > 0
  group = sharding.batch_norm_group(
    config.batch_norm_group,
    config.batch_size,
    mesh,
    config.micro_batches,
    dataset.batch_norm_group,
  )
  kind = inputs.choose(
    config, source, mesh, dataset.input if is_begun else None
  )
  crops = inputs.choose_crops(config, dataset.crops if is_begun else None)
  dataset = msgspec.structs.replace(
    dataset, input=kind, batch_norm_group=group, crops=crops
  )
  batches, augment = inputs.train_batches(
    config, source, mesh, damage, kind, crops
  )
  optimizer, schedule = build.optimizer(config, batches.steps_per_epoch)
  model = build.model(config, len(dataset.class_names))
  batch_norm.set_group(model, group)
  if not workdir.latest_step():
    if config.embeddings:
      model.encoder.fit(source.sample(_FIT_ROWS, seed=config.seed))
    init_from.initialise(config, model, dataset.class_names)
  graphdef, state = state_lib.create(
    model, optimizer, trainable=config.trainable
  )
  layout = sharding.of_state(state, mesh, fsdp=config.fsdp)
  state = jax.device_put(state, layout)
  everywhere = sharding.replicated(mesh)
  train_step = train_step_lib.make_train_step(
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
    sharding=(layout, everywhere),
  )
  eval_step = inference.make_eval_step(
    graphdef, inputs.normalize(config), sharding=everywhere
  )
  eval_batches = inputs.evaluation_batches(config, eval_source, mesh, damage)
  with train_loop.opened(config, workdir, dataset, state, batches) as common:
    train_loop.Loop(
      **common,
      train_step=train_step,
      eval_step=eval_step,
      eval_batches=eval_batches,
      damage=damage,
    ).run()
