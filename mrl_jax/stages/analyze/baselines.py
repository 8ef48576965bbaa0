"""1-NN with prefixes, and with projections of the full embedding."""

from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mrl_jax import retrieval
from mrl_jax.retrieval import projections
from mrl_jax.stages import config as config_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import Workdir

# Limits on the numbers in the database and the multiply-adds of a search at
# the full width. Beyond them a random sample is searched, and the record says
# so. CIFAR-10 at width 64 is searched whole; of ImageNet at 2048, 9,765 rows
# and 1,600 queries are.
_NUMBERS, _PRODUCTS = 2e7, 3.2e10
FILES = ('baselines.json',)


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes analysis/baselines.json: 1-NN accuracy in percent.

  `nested` searches prefixes. PCA, SVD, random dims and a random projection are
  taken of the full embedding, fitted on the training split, and cut to each
  width.
  """
  record = measure(config, workdir, config_lib.measured_dims(config))
  record |= checkpoint.as_json()
  checksums.write(workdir.analysis / 'baselines.json', record)


def measure(
  config: ConfigDict, workdir: Workdir, dims: tuple[int, ...]
) -> dict[str, Any]:
  """Computes the content of baselines.json at these widths."""
  (database_MD, database_label_M, manifest), (query_QD, query_label_Q, _) = (
    embeddings.load(workdir.embeddings, split)
    for split in (config.train_split, config.eval_split)
  )
  rng = np.random.default_rng(config.seed)
  M, D = database_MD.shape
  rows = _sample(M, int(_NUMBERS / D), rng)
  most = int(_PRODUCTS / (len(rows) * D))
  queries = _sample(len(query_label_Q), most, rng)
  found = knn1(
    np.array(database_MD[rows]),
    database_label_M[rows],
    np.array(query_QD[queries]),
    query_label_Q[queries],
    dims,
    seed=config.seed,
    leave_one_out=_own(rows, queries)
    if config.eval_split == config.train_split
    else False,
  )
  return {
    'dims': list(dims),
    'step': manifest['step'],
    'queries': len(queries),
    'database': len(rows),
    'sampled': (len(queries), len(rows)) != (len(query_label_Q), M),
    'knn1': found,
  }


def knn1(
  database_MD: np.ndarray,
  database_label_M: np.ndarray,
  query_QD: np.ndarray,
  query_label_Q: np.ndarray,
  dims: tuple[int, ...],
  *,
  seed: int,
  leave_one_out: bool | np.ndarray = False,
) -> dict[str, list[float | None]]:
  """1-NN accuracy in percent at each width, by name of the projection.

  None where a row or query is all zero at the width and so has no cosine, as
  happens to random dims after a ReLU.
  """
  D, last = database_MD.shape[1], dims[-1]
  functions = {
    'nested': lambda x_ND: x_ND,
    'PCA': projections.principal(database_MD, last, center=True),
    'SVD': projections.principal(database_MD, last),
    'random dims': projections.selection(D, last, seed=seed),
    'random projection': projections.gaussian(D, last, seed=seed),
  }
  found = {}
  for name, project in functions.items():
    row_MW, query_QW = project(database_MD), project(query_QD)
    alive = [
      dim
      for dim in dims
      if all(x_NW[:, :dim].any(1).all() for x_NW in (row_MW, query_QW))
    ]
    found[name] = [None] * len(dims)
    if not alive:
      continue
    database = retrieval.prepare(row_MW, alive)
    for dim in alive:
      ids_QK = retrieval.search(
        query_QW, database, 1, dim=dim, leave_one_out=leave_one_out
      ).ids_QK
      share = retrieval.metrics.top_k_accuracy(
        database_label_M[ids_QK], query_label_Q
      )
      found[name][dims.index(dim)] = 100 * share
  return found


def _own(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
  """The place of each query among the sampled rows of the same split, or -1."""
  place_Q = np.searchsorted(rows, queries).clip(max=len(rows) - 1)
  return np.where(rows[place_Q] == queries, place_Q, -1)


def _sample(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
  if count <= most:
    return np.arange(count)
  return np.sort(rng.choice(count, most, replace=False))
