"""Trains a text encoder; a resumed training gives the same bits."""

import functools
import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax.data.batches.input_wait import InputWait
from mrl_jax.data.text.batches import TextBatches
from mrl_jax.data.text.mix import Mix
from mrl_jax.stages import build as build_lib
from mrl_jax.stages import recorded
from mrl_jax.stages import train_loop
from mrl_jax.stages.set_loop import SetLoop
from mrl_jax.stages.text import build
from mrl_jax.stages.text import inputs
from mrl_jax.stages.text import measure as measure_lib
from mrl_jax.stages.text import tokenizer
from mrl_jax.stages.text import trained
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import text_step
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.checkpoints, tokenizer.path(workdir)]


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
  embedder = trained.embedder(config, graphdef, tokens, mesh)
  wait = functools.partial(
    InputWait, things='texts', remedy='give it more cores'
  )
  with train_loop.opened(
    config, workdir, dataset, state, batches, things='examples', wait=wait
  ) as common:
    SetLoop(
      **common,
      train_step=train_step,
      damage=batches,
      sets=sets,
      measure=functools.partial(_measure, config, embedder),
      main_metrics=measure_lib.main_metrics(sets),
    ).run()


def _measure(config, embedder, text_set, state, dims) -> dict[str, float]:
  return measure_lib.measure(
    text_set,
    functools.partial(embedder, state.params, state.batch_stats),
    dims,
    prompts=tuple(config.text.prompts),
    neighbors=config.knn,
    seed=config.seed,
  )
