"""Trains a model; a resumed training gives the same bits as one in one go."""

import contextlib
import pathlib

import jax
from ml_collections import ConfigDict
import msgspec

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.input_wait import InputWait
from mrl_jax.data.sources import provenance
from mrl_jax.models import batch_norm
from mrl_jax.stages import build
from mrl_jax.stages import init_from
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages.train_loop import Loop
from mrl_jax.stages.train_loop import open_writer
from mrl_jax.training import inference
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.preemption import Preemption
from mrl_jax.training.profile import Profile
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import files
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
    loop = Loop(
      config=config,
      saved_config=workdir.config,
      saved_dataset=provenance.plain(dataset),
      steps_per_epoch=batches.steps_per_epoch,
      start_step=start_step,
      state=state,
      train_step=train_step,
      eval_step=eval_step,
      eval_batches=eval_batches,
      checkpoints=checkpoints,
      writer=stack.enter_context(open_writer(workdir, start_step)),
      progress=stack.enter_context(
        terminal.Progress(
          start_step=start_step,
          total_steps=config.num_epochs * batches.steps_per_epoch,
          steps_per_epoch=batches.steps_per_epoch,
          batch_size=config.batch_size,
          nesting_dims=config.nesting_dims,
          log_every_steps=config.log_every_steps,
        )
      ),
      preemption=stack.enter_context(Preemption()),
      profile=stack.enter_context(Profile(config.profile, workdir.profile)),
      damage=damage,
      # Its threads decode ahead: they must end however the training does.
      input=InputWait(
        stack.enter_context(contextlib.closing(batches.batches(start_step)))
      ),
    )
    loop.run()
