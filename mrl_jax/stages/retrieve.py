"""Retrieval with the exported embeddings: exact, adaptive and funnel."""

import functools
import pathlib
import time

from ml_collections import ConfigDict
import numpy as np

from mrl_jax import embeddings
from mrl_jax import files
from mrl_jax import retrieval
from mrl_jax import tables
from mrl_jax import terminal
from mrl_jax.retrieval import cost
from mrl_jax.retrieval import metrics
from mrl_jax.stages import build
from mrl_jax.workdir import Workdir
from mrl_jax.writer import MetricWriter

# Queries enough for a whole block of every search.
_WARM_UP = 512


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  del config
  return [workdir.retrieval / 'retrieval.json']


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes retrieval/<method>.npz and retrieval.json, and prints a table.

  The metrics go to metrics.jsonl too, as `retrieval/map10@16` and, for a rerank
  or funnel, `retrieval/map10@16-2048`. The evaluation split queries the
  training split.
  """
  database_MD, database_label_M, _ = embeddings.load(
    workdir.embeddings, config.train_split
  )
  query_QD, query_label_Q, manifest = embeddings.load(
    workdir.embeddings, config.eval_split
  )
  M = len(database_MD)
  k = min(config.retrieval.k, M)
  methods = plan(
    tuple(config.nesting_dims),
    build.widths(config),
    k=k,
    shortlist=min(max(config.retrieval.shortlist, k), M),
  )
  database = retrieval.prepare(database_MD, build.widths(config))
  # Searched from memory, as a server would.
  query_QD = np.asarray(query_QD)
  results = {}
  for name, (dims, shortlists) in methods.items():
    find = functools.partial(
      retrieval.funnel, database_MD=database, dims=dims, shortlists=shortlists
    )
    find(query_QD[:_WARM_UP])  # Compiles.
    start = time.perf_counter()
    neighbors = find(query_QD)
    seconds = time.perf_counter() - start
    with (
      files.replacing(workdir.retrieval / f'{name}.npz') as temporary,
      open(temporary, 'wb') as file,
    ):
      np.savez(file, ids=neighbors.ids_QK, scores=neighbors.scores_QK)
    labels_QK = database_label_M[neighbors.ids_QK]
    results[name] = {
      'dims': list(dims),
      'shortlists': list(shortlists),
      'metrics': _measure(labels_QK, query_label_Q),
      'mflops_per_query': cost.mflops(M, dims, shortlists),
      'seconds': seconds,
    }
  files.write_json(
    workdir.retrieval / 'retrieval.json',
    {
      'queries': len(query_QD),
      'database': M,
      'step': manifest['step'],
      'methods': results,
    },
  )
  with MetricWriter(workdir.metrics) as writer:
    writer.write(
      manifest['step'],
      {
        f'retrieval/{metric}@{name}': value
        for name, result in results.items()
        for metric, value in result['metrics'].items()
      },
    )
  terminal.say(
    f'retrieve: {len(query_QD):,} queries of {config.eval_split} in {M:,} rows '
    f'of {config.train_split}\n' + terminal.table(tables.retrieval(results))
  )


def plan(
  nesting_dims: tuple[int, ...],
  widths: tuple[int, ...],
  *,
  k: int,
  shortlist: int,
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
  """The searches to compare, by name: dims and shortlists of `funnel`.

  Exact at every width; from every nesting dim but the last a rerank at the
  last; and the paper's funnels (section 4.3.1), which halve the shortlist at
  every nesting dim until 10 are left, and rank those at the last.
  """
  last, floor = nesting_dims[-1], min(10, k)
  methods = {f'{dim}': ((dim,), (k,)) for dim in widths}
  for dim in nesting_dims[:-1]:
    methods[f'{dim}-{last}'] = ((dim, last), (shortlist, k))
  for first in range(len(nesting_dims) - 2):
    dims, shortlists, kept = [], [], shortlist
    for dim in nesting_dims[first:-1]:
      dims.append(dim)
      shortlists.append(kept if kept >= 2 * floor else floor)
      if shortlists[-1] == floor:
        break
      kept //= 2
    if len(dims) > 1:
      dims.append(last)
      methods['-'.join(map(str, dims))] = (tuple(dims), (*shortlists, floor))
  return methods


def _measure(
  labels_QK: np.ndarray, query_label_Q: np.ndarray
) -> dict[str, float]:
  """The paper's metrics, in percent, for every k that was retrieved."""
  values = {'top1': metrics.top_k_accuracy(labels_QK, query_label_Q)}
  for k in (10, 25, 50, 100):
    if k <= labels_QK.shape[1]:
      values[f'map{k}'] = metrics.mean_average_precision(
        labels_QK, query_label_Q, k
      )
      values[f'p{k}'] = metrics.precision_at_k(labels_QK, query_label_Q, k)
  return {name: 100 * value for name, value in values.items()}
