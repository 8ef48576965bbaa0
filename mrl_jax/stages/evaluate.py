"""Measures a trained model at every width: by its heads, and by 1-NN."""

from collections.abc import Callable, Mapping, Sequence

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import retrieval
from mrl_jax import sharding
from mrl_jax import state as state_lib
from mrl_jax import writer as writer_lib
from mrl_jax.data.damage import DamageLog
from mrl_jax.data.evaluation import EvaluationBatches
from mrl_jax.retrieval import metrics as retrieval_metrics
from mrl_jax.stages import build
from mrl_jax.stages import embed
from mrl_jax.workdir import Workdir


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes `val/…@<width>` to metrics.jsonl, and prints them as a table.

  The heads give loss, top-1 and top-5 at the nesting dims, and with MRL-E at
  `eval_dims` too; 1-NN, with the training split as the database, at all of
  both. Runs the stage embed first where its files are not there yet.
  """
  mesh = sharding.make_mesh(config.num_devices)
  damage = DamageLog(config.max_damaged)
  source = build.source(config, config.eval_split)
  trained = build.trained(
    config, workdir, mesh, source.num_classes, needed_by='evaluate'
  )
  dims = tuple(config.nesting_dims)
  if config.head == 'mrl_e':
    dims = build.widths(config)
  eval_step = state_lib.make_eval_step(
    trained.graphdef,
    build.normalize(config),
    dims=dims if config.head == 'mrl_e' else None,
  )
  batches = build.evaluation_batches(config, source, mesh, damage)
  sums = accumulate(eval_step, trained, batches, mesh)
  values = linear_metrics(dims, sums)
  if line := damage.report():
    writer_lib.say(line)
  if not workdir.is_finished('embed'):
    writer_lib.say('evaluate: 1-NN needs the embeddings, so embed runs first')
    embed.run(config, workdir)
    if not jax.process_index():
      workdir.mark_finished('embed', 0.0)
  values |= nearest_neighbor_metrics(config, workdir)
  with writer_lib.MetricWriter(workdir.metrics) as writer:
    writer.write(trained.step, values)
  writer_lib.say(
    f'evaluate: {int(sums["count"]):,} examples of {config.eval_split}, '
    f'checkpoint of step {trained.step}\n' + _table(config, values)
  )


def accumulate(
  eval_step: Callable[..., Mapping[str, jax.Array]],
  trained: state_lib.State | build.Trained,
  batches: EvaluationBatches,
  mesh: jax.sharding.Mesh,
) -> dict[str, np.ndarray]:
  """Adds up an evaluation step's sums over all batches, in float64."""
  totals, pending = {}, None
  for batch in batches:
    batch = sharding.shard_batch(batch, mesh)
    sums = eval_step(trained.params, trained.batch_stats, batch)
    # One batch late, so that the host decodes while the device works.
    if pending:
      _add(totals, pending)
    pending = sums
  _add(totals, pending)
  if not totals['count']:
    raise ValueError('every image of the evaluation split is damaged')
  return totals


def _add(totals, sums):
  for name, value in jax.device_get(sums).items():
    totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)


def linear_metrics(
  dims: Sequence[int], sums: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """`val/loss@m` in nats, `val/top1@m` and `val/top5@m` in percent."""
  count = sums['count']
  return {
    **per_width('val/loss', dims, sums['loss'] / count),
    **per_width('val/top1', dims, 100 * sums['top1'] / count),
    **per_width('val/top5', dims, 100 * sums['top5'] / count),
  }


def nearest_neighbor_metrics(
  config: ConfigDict, workdir: Workdir
) -> dict[str, float]:
  """`val/knn1@m` in percent, from the exported embeddings."""
  database_MD, database_label_M, _ = embed.load(workdir, config.train_split)
  query_QD, query_label_Q, _ = embed.load(workdir, config.eval_split)
  dims = build.widths(config)
  database = retrieval.prepare(database_MD, dims)
  accuracy_G = []
  for dim in dims:
    neighbors = retrieval.search(query_QD, database, 1, dim=dim)
    accuracy_G.append(
      100
      * retrieval_metrics.top_k_accuracy(
        database_label_M[neighbors.ids_QK], query_label_Q
      )
    )
  return per_width('val/knn1', dims, accuracy_G)


def per_width(
  name: str, dims: Sequence[int], values_G: Sequence[float]
) -> dict[str, float]:
  return {
    f'{name}@{dim}': float(value)
    for dim, value in zip(dims, values_G, strict=True)
  }


def _table(config: ConfigDict, values: Mapping[str, float]) -> str:
  names = ('loss', 'top1', 'top5', 'knn1')
  rows = [
    (dim, *(values.get(f'val/{name}@{dim}') for name in names))
    for dim in build.widths(config)
  ]
  header = ('width', 'loss', 'top-1 %', 'top-5 %', '1-NN %')
  return writer_lib.table(header, rows)
