"""Trains towers of images and texts; a resumed run gives the same bits."""

import contextlib
import dataclasses
import functools
import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.input_wait import InputWait
from mrl_jax.data.pairs.batches import PairBatches
from mrl_jax.data.pairs.datasets import PairSet
from mrl_jax.data.sources import provenance
from mrl_jax.stages import build as build_lib
from mrl_jax.stages import inputs as image_inputs
from mrl_jax.stages import recorded
from mrl_jax.stages.pairs import build
from mrl_jax.stages.pairs import inputs
from mrl_jax.stages.pairs import measure as measure_lib
from mrl_jax.stages.pairs import start
from mrl_jax.stages.pairs.trained import Embedder
from mrl_jax.stages.text import inputs as text_inputs
from mrl_jax.stages.train_loop import Loop
from mrl_jax.stages.train_loop import open_writer
from mrl_jax.training import pair_step
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.preemption import Preemption
from mrl_jax.training.profile import Profile
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir


@dataclasses.dataclass(kw_only=True)
class PairLoop(Loop):
  """The training loop; it measures on sets of pictures and texts."""

  sets: list[PairSet]
  embedder: Embedder

  def _measure(self, step: int) -> float:
    """Measures every set; returns the mean main metric of the last width."""
    dims, values = tuple(self.config.nesting_dims), {}
    embedder = self.embedder.at(self.state.params, self.state.batch_stats)
    # A signal ends the evaluation between two sets.
    for pair_set in self.preemption.until(self.sets):
      values |= measure_lib.measure(pair_set, embedder, dims).values
    if not values:
      return 0.0
    self.writer.replace(step, values)
    names = [f'{x.name}/{measure_lib.MAIN[x.kind]}' for x in self.sets]
    for name in (x for x in names if f'{x}@{dims[0]}' in values):
      shown = ' '.join(f'@{dim} {values[f"{name}@{dim}"]:.2f}' for dim in dims)
      epoch = step // self.steps_per_epoch
      self.progress.say(f'epoch {epoch}  {name} {shown}')
    self.progress.resume(step)
    found = [values.get(f'{name}@{dims[-1]}', 0.0) for name in names]
    return sum(found) / len(found)


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.checkpoints, inputs.tokenizer_path(workdir)]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes tokenizer.json, config.json, checkpoints/ and metrics.jsonl.

  Training goes on from the latest checkpoint, whatever `checkpoint` is; see
  `stages.train`.
  """
  mesh = sharding.make_mesh(**config.mesh)
  damage = DamageLog(config.max_damaged)
  source = inputs.open_training(config)
  sets = inputs.open_sets(config)
  tokens = inputs.prepare_tokens(config, workdir, source)
  dataset = inputs.record(source, workdir)
  if there := recorded.read(workdir):
    text_inputs.check_record(there, dataset, workdir)
  batches, augment = image_inputs.train_batches(
    config,
    source,
    mesh,
    damage,
    'stream',
    make_stream=functools.partial(PairBatches, tokens=tokens),
  )
  text_inputs.say_truncated(tokens, 'train')
  optimizer, schedule = build_lib.optimizer(config, batches.steps_per_epoch)
  model = build.model(config, workdir, tokens.pad_id)
  start.check_tokens(model, tokens)
  if not workdir.latest_step():
    start.initialise(config, model)
  trainable = build.trainable(config, model)
  graphdef, state = state_lib.create(model, optimizer, trainable=trainable)
  layout = sharding.of_state(state, mesh, fsdp=config.fsdp)
  state = jax.device_put(state, layout)
  train_step = pair_step.make_pair_step(
    graphdef,
    optimizer,
    augment,
    seed=config.seed,
    mesh=mesh if mesh.shape['data'] > 1 else None,
    trainable=trainable,
    schedule=schedule,
    weights_G=tuple(config.nesting_weights),
    granularities_per_step=config.granularities_per_step,
    sharding=(layout, sharding.replicated(mesh)),
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
    loop = PairLoop(
      config=config,
      saved_config=workdir.config,
      saved_dataset=provenance.plain(dataset),
      steps_per_epoch=batches.steps_per_epoch,
      start_step=start_step,
      state=state,
      train_step=train_step,
      eval_step=None,
      eval_batches=(),
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
          things='pairs',
        )
      ),
      preemption=stack.enter_context(Preemption()),
      profile=stack.enter_context(Profile(config.profile, workdir.profile)),
      damage=damage,
      # Its threads decode ahead: they must end however the training does.
      input=InputWait(
        stack.enter_context(contextlib.closing(batches.batches(start_step)))
      ),
      sets=sets,
      embedder=Embedder(config, graphdef, tokens, mesh, damage),
    )
    loop.run()
