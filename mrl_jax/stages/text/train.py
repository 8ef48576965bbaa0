"""Trains a text encoder; a resumed training gives the same bits."""

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches.input_wait import InputWait
from mrl_jax.data.sources import provenance
from mrl_jax.data.text.batches import TextBatches
from mrl_jax.data.text.embed import TextEmbedder
from mrl_jax.data.text.mix import Mix
from mrl_jax.stages import build as build_lib
from mrl_jax.stages import recorded
from mrl_jax.stages.text import build
from mrl_jax.stages.text import inputs
from mrl_jax.stages.text import measure as measure_lib
from mrl_jax.stages.text import trained
from mrl_jax.stages.train_loop import Loop
from mrl_jax.stages.train_loop import open_writer
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import text_step
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.preemption import Preemption
from mrl_jax.training.profile import Profile
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir


@dataclasses.dataclass(kw_only=True)
class TextLoop(Loop):
  """The training loop; it measures on sets of texts."""

  sets: list[Any]
  embedder: TextEmbedder

  def _measure(self, step: int) -> float:
    """Measures every set; returns the mean main metric of the last width."""
    config, state = self.config, self.state
    dims, values = tuple(config.nesting_dims), {}
    embed = lambda texts: self.embedder(state.params, state.batch_stats, texts)
    # A signal ends the evaluation between two sets.
    for text_set in self.preemption.until(self.sets):
      values |= measure_lib.measure(
        text_set,
        embed,
        dims,
        prompts=tuple(config.text.prompts),
        neighbors=config.knn,
        seed=config.seed,
      )
    if not values:
      return 0.0
    self.writer.replace(step, values)
    names = measure_lib.main_metrics(self.sets)
    for name in names:
      shown = ' '.join(f'@{dim} {values[f"{name}@{dim}"]:.2f}' for dim in dims)
      epoch = step // self.steps_per_epoch
      self.progress.say(f'epoch {epoch}  {name} {shown}')
    self.progress.resume(step)
    score = sum(values[f'{name}@{dims[-1]}'] for name in names) / len(names)
    return max(score, 0.0)  # A correlation may be negative, a score may not.


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.checkpoints, inputs.tokenizer_path(workdir)]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes tokenizer.json, config.json, checkpoints/ and metrics.jsonl.

  Training goes on from the latest checkpoint, whatever `checkpoint` is; see
  `stages.train`.
  """
  mesh = sharding.make_mesh(**config.mesh)
  sources = inputs.open_training(config)
  sets = inputs.open_sets(config)
  tokens = inputs.prepare_tokens(config, workdir, sources)
  dataset = inputs.record(config, sources, workdir)
  if there := recorded.read(workdir):
    inputs.check_record(there, dataset, workdir)
  batches = TextBatches(
    Mix(
      sources,
      tuple(config.text.weights),
      batch_size=config.batch_size,
      seed=config.seed,
    ),
    tokens,
    mesh=mesh,
    parts=config.micro_batches,
  )
  inputs.say_truncated(tokens, 'train')
  optimizer, schedule = build_lib.optimizer(config, batches.steps_per_epoch)
  model = build.model(
    config, workdir, tokens.vocabulary_size, len(dataset.class_names)
  )
  build.check_tokens(model.encoder, tokens)
  if not workdir.latest_step():
    build.initialise(config, model)
  graphdef, state = state_lib.create(
    model, optimizer, trainable=config.trainable
  )
  layout = sharding.of_state(state, mesh, fsdp=config.fsdp)
  state = jax.device_put(state, layout)
  everywhere = sharding.replicated(mesh)
  train_step = text_step.make_text_step(
    graphdef,
    optimizer,
    build.objective(config),
    seed=config.seed,
    trainable=config.trainable,
    schedule=schedule,
    parts=config.micro_batches,
    sharding=(layout, everywhere),
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
    loop = TextLoop(
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
          things='examples',
        )
      ),
      preemption=stack.enter_context(Preemption()),
      profile=stack.enter_context(Profile(config.profile, workdir.profile)),
      damage=batches,
      input=InputWait(
        stack.enter_context(contextlib.closing(batches.batches(start_step))),
        things='texts',
        remedy='give it more cores',
      ),
      sets=sets,
      embedder=trained.embedder(config, graphdef, tokens, mesh),
    )
    loop.run()
