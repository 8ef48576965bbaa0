"""Measures a trained model at every width: by its heads, and by 1-NN."""

import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax import embeddings
from mrl_jax import metrics
from mrl_jax import retrieval
from mrl_jax import sharding
from mrl_jax import state as state_lib
from mrl_jax import tables
from mrl_jax import terminal
from mrl_jax.data.damage import DamageLog
from mrl_jax.stages import build
from mrl_jax.workdir import Workdir
from mrl_jax.writer import MetricWriter


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  del config
  return [workdir.metrics]


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes `val/…@<width>` to metrics.jsonl, and prints them as a table.

  The heads give loss, top-1 and top-5 at the nesting dims, and with MRL-E at
  `eval_dims` too; 1-NN, with the exported training split as the database, at
  all of both. The second evaluation of the config is `val_flip/…`.
  """
  mesh = sharding.make_mesh(config.mesh.data * config.mesh.model)
  damage = DamageLog(config.max_damaged)
  source = build.source(config, config.eval_split)
  trained = build.trained(
    config, workdir, mesh, source.num_classes, needed_by='evaluate'
  )
  dims = tuple(config.nesting_dims)
  if config.head == 'mrl_e':
    dims = build.widths(config)

  def evaluate(flip):
    eval_step = state_lib.make_eval_step(
      trained.graphdef,
      build.normalize(config),
      dims=dims if config.head == 'mrl_e' else None,
      flip=flip,
      sharding=sharding.replicated(mesh),
    )
    return state_lib.evaluate(
      eval_step,
      trained.params,
      trained.batch_stats,
      build.evaluation_batches(config, source, mesh, damage, flip=flip),
    )

  sums = evaluate(flip=False)
  values = metrics.from_sums(dims, sums)
  if config.flip_eval_image_size:
    values |= metrics.from_sums(dims, evaluate(flip=True), 'val_flip')
  if line := damage.report():
    terminal.say(line)
  if jax.process_index():
    return
  values |= _nearest_neighbor(config, workdir)
  with MetricWriter(workdir.metrics) as writer:
    writer.write(trained.step, values)
  terminal.say(
    f'evaluate: {int(sums["count"]):,} examples of {config.eval_split}, '
    f'checkpoint of step {trained.step}\n'
    + terminal.table(tables.accuracy(values, build.widths(config)))
  )
  if config.flip_eval_image_size:
    terminal.say(
      f'at {config.flip_eval_image_size} pixels, averaged with mirror images\n'
      + terminal.table(tables.flipped(values, dims))
    )


def _nearest_neighbor(config: ConfigDict, workdir: Workdir) -> dict[str, float]:
  """`val/knn1@m` in percent, from the exported embeddings."""
  database_MD, database_label_M, _ = embeddings.load(
    workdir.embeddings, config.train_split
  )
  query_QD, query_label_Q, _ = embeddings.load(
    workdir.embeddings, config.eval_split
  )
  dims = build.widths(config)
  database = retrieval.prepare(database_MD, dims)
  accuracy_G = []
  for dim in dims:
    neighbors = retrieval.search(query_QD, database, 1, dim=dim)
    labels_QK = database_label_M[neighbors.ids_QK]
    accuracy_G.append(
      100 * retrieval.metrics.top_k_accuracy(labels_QK, query_label_Q)
    )
  return metrics.per_width('val/knn1', dims, accuracy_G)
