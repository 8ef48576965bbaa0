"""Trains towers of images and texts; a resumed run gives the same bits."""

import functools
import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.pairs.batches import PairBatches
from mrl_jax.stages import build as build_lib
from mrl_jax.stages import inputs as image_inputs
from mrl_jax.stages import recorded
from mrl_jax.stages import train_loop
from mrl_jax.stages.pairs import build
from mrl_jax.stages.pairs import inputs
from mrl_jax.stages.pairs import measure as measure_lib
from mrl_jax.stages.pairs import start
from mrl_jax.stages.pairs.trained import Embedder
from mrl_jax.stages.set_loop import SetLoop
from mrl_jax.stages.text import inputs as text_inputs
from mrl_jax.stages.text import tokenizer
from mrl_jax.training import pair_step
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
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
  embedder = Embedder(config, graphdef, tokens, mesh, damage)
  with train_loop.opened(
    config, workdir, dataset, state, batches, things='pairs'
  ) as common:
    SetLoop(
      **common,
      train_step=train_step,
      damage=damage,
      sets=sets,
      measure=functools.partial(_measure, embedder),
      main_metrics=[f'{x.name}/{measure_lib.MAIN[x.kind]}' for x in sets],
    ).run()


def _measure(embedder, pair_set, state, dims) -> dict[str, float]:
  there = embedder.at(state.params, state.batch_stats)
  return measure_lib.measure(pair_set, there, dims).values
