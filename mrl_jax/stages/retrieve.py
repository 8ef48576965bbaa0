"""Retrieval with the exported embeddings: exact, adaptive and funnel."""

import pathlib
import re

from ml_collections import ConfigDict
import numpy as np
import tqdm

from mrl_jax import retrieval
from mrl_jax import terminal
from mrl_jax.retrieval import compare
from mrl_jax.stages import config as config_lib
from mrl_jax.terminal import tables
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.retrieval / 'retrieval.json']


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes retrieval/<method>.npz and retrieval.json, and prints a table.

  The metrics are written to metrics.jsonl as well, as `retrieval/map10@16` and,
  for a rerank or funnel, `retrieval/map10@16-2048`. The queries are the
  evaluation split, the database is the training split; where they are the same,
  no row finds itself. Files of an earlier run with other widths are removed.
  """
  (database_MD, database_label_M, _), (query_QD, query_label_Q, _) = (
    embeddings.load(workdir.embeddings, split)
    for split in (config.train_split, config.eval_split)
  )
  M = len(database_MD)
  is_same = config.eval_split == config.train_split
  most = M - 1 if is_same else M
  if not most:
    raise ValueError(f'{config.train_split} has one row: nothing to retrieve')
  k = min(config.retrieval.k, most)
  methods = compare.plan(
    tuple(config.nesting_dims),
    config_lib.measured_dims(config),
    k=k,
    shortlist=min(max(config.retrieval.shortlist, k), most),
  )
  database = retrieval.prepare(database_MD, config_lib.measured_dims(config))
  # Searched from memory, as a server would.
  query_QD = np.asarray(query_QD)
  judge = compare.by_labels(query_label_Q, database_label_M, is_same)
  searches = compare.run(query_QD, database, methods, judge)
  # The files of an earlier run go, its record first.
  (workdir.retrieval / 'retrieval.json').unlink(missing_ok=True)
  for path in workdir.retrieval.glob('*.npz'):
    if re.fullmatch(r'\d+(-\d+)*', path.stem):
      path.unlink()
  results = {}
  for name, neighbors, results[name] in tqdm.tqdm(
    searches, total=len(methods), unit='search', disable=None, leave=False
  ):
    compare.write_neighbors(workdir.retrieval, name, neighbors)
  checksums.write(
    workdir.retrieval / 'retrieval.json',
    {
      'queries': len(query_QD),
      'database': M,
      **checkpoint.as_json(),
      'methods': results,
    },
    [workdir.retrieval / f'{name}.npz' for name in results],
  )
  with MetricWriter(workdir.metrics) as writer:
    writer.replace(
      checkpoint.step,
      {
        f'retrieval/{metric}@{name}': value
        for name, result in results.items()
        for metric, value in result['metrics'].items()
      },
      prefix='retrieval/',
    )
  terminal.say(
    f'retrieve: {len(query_QD):,} queries of {config.eval_split} in {M:,} rows '
    f'of {config.train_split}{", but its own" if is_same else ""}\n'
    + terminal.table(tables.retrieval(results))
  )
