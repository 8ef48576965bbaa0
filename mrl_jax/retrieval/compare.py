"""Compares the accuracies and the costs of searches."""

from collections.abc import Callable, Iterator, Mapping
import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import retrieval
from mrl_jax.retrieval import cost
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval.cost import Neighbors
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.qrels import Qrels
from mrl_jax.workdir import files

# Queries that fill a block of every search.
_WARM_UP = 512

# The dims and shortlists of `funnel`.
Method = tuple[tuple[int, ...], tuple[int, ...]]


class Judge(NamedTuple):
  """Measures neighbours in percent, at each k of 1, 10, 25, 50, 100 up to K.

  Attributes:
    measure: `(ids_QK, ks) -> metrics`, as shares.
    leave_one_out: as in `neighbors.search`.
    accuracy: the metric that searches are chosen by, without its k.
  """

  measure: Callable[[np.ndarray, list[int]], dict[str, float]]
  leave_one_out: inputs.LeaveOneOut
  accuracy: str = 'map'

  def __call__(self, ids_QK: np.ndarray) -> dict[str, float]:
    ks = [k for k in (1, 10, 25, 50, 100) if k <= ids_QK.shape[1]]
    return {name: 100 * x for name, x in self.measure(ids_QK, ks).items()}


def by_labels(
  query_label_Q: np.ndarray,
  database_label_M: np.ndarray,
  leave_one_out: inputs.LeaveOneOut = False,
) -> Judge:
  """A judge by the paper's `top1`, `map{k}`, `p{k}` and `r{k}`.

  R is the count of the query's class. Label -1 is a query that does not count,
  or a row that is never relevant.
  """
  relevant_Q = metrics.count_relevant(
    database_label_M, query_label_Q, leave_one_out=leave_one_out
  )

  def measure(ids_QK, ks):
    label_QK = np.where(ids_QK < 0, inputs.IGNORED, database_label_M[ids_QK])
    # A query without a relevant row has recall 0.
    values = metrics.summary(
      label_QK, query_label_Q, ks, num_relevant=np.maximum(relevant_Q, 1)
    )
    names = ('top1', *(f'{x}{k}' for k in ks[1:] for x in ('map', 'p', 'r')))
    return {name: values[name] for name in names}

  return Judge(measure, leave_one_out)


def make_judge(
  query_QD: np.ndarray,
  database: np.ndarray | Database,
  k: int,
  *,
  query_label_Q: np.ndarray | None = None,
  database_label_M: np.ndarray | None = None,
  qrels: Qrels | None = None,
  leave_one_out: inputs.LeaveOneOut = False,
) -> Judge:
  """A judge by k-Recall@k, as `krecall{k}`, and by qrels or labels if given.

  The true neighbours are those of the exact search at full width; copies of one
  are recognised by their scores. A search that misses some of them may still
  have the better mAP or nDCG: the k-recall beside it tells.
  """
  if (query_label_Q is None) != (database_label_M is None):
    raise ValueError('labels of one side: give those of both, or none')
  told = None
  if qrels is not None:
    if query_label_Q is not None:
      raise ValueError('labels and qrels: give one of them')
    told = Judge(qrels.without(leave_one_out).summary, leave_one_out, 'ndcg')
  elif query_label_Q is not None:
    told = by_labels(query_label_Q, database_label_M, leave_one_out)
  true_ids_QK = retrieval.search(
    query_QD, database, k, leave_one_out=leave_one_out
  ).ids_QK
  true_score_QK = _scores(query_QD, database, true_ids_QK)

  def measure(ids_QK, ks):
    score_QK = _scores(query_QD, database, ids_QK)
    found = told.measure(ids_QK, ks) if told else {}
    for k in ks:
      upto = np.s_[:, :k]
      found[f'krecall{k}'] = metrics.k_recall(
        ids_QK[upto], true_ids_QK[upto], scores_QN=score_QK[upto],
        true_scores_QK=true_score_QK[upto],
      )  # fmt: skip
    return found

  return Judge(measure, leave_one_out, told.accuracy if told else 'krecall')


def _scores(query_QD, database, ids_QK) -> np.ndarray:
  """Cosines at full width of the given rows [Q, K]; -inf for an id of -1."""
  rows_QK = np.maximum(ids_QK, 0)
  found = retrieval.rerank(query_QD, database, rows_QK, rows_QK.shape[1])
  # Scores are put back in the order of the given ids.
  score_QK = np.empty(rows_QK.shape, np.float32)
  order_QK = np.argsort(rows_QK, axis=1)
  by_id_QK = np.argsort(found.ids_QK, axis=1)
  by_id_QK = np.take_along_axis(found.scores_QK, by_id_QK, axis=1)
  np.put_along_axis(score_QK, order_QK, by_id_QK, axis=1)
  return np.where(ids_QK < 0, -np.inf, score_QK)


def plan(
  nesting_dims: tuple[int, ...],
  widths: tuple[int, ...],
  *,
  k: int,
  shortlist: int,
) -> dict[str, Method]:
  """The searches to compare, by name: dims and shortlists of `funnel`.

  They are the exact search at every width; from every nesting dim but the last
  a rerank at the last; and the paper's funnels (section 4.3.1), which halve the
  shortlist at every nesting dim until 10 rows are left, and rank those at the
  last dim.
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


def run(
  query_QD: np.ndarray,
  database: np.ndarray | Database,
  methods: Mapping[str, Method],
  judge: Judge,
) -> Iterator[tuple[str, Neighbors, dict[str, Any]]]:
  """Yields the name, neighbours and record (retrieval.json) of each method.

  The second of two searches is timed, so that compiling does not count. The
  searches leave out each query's own row if the judge does.
  """
  num_rows = database.shape[0]
  for name, (dims, shortlists) in methods.items():
    find = functools.partial(
      retrieval.funnel, database_MD=database, dims=dims, shortlists=shortlists
    )
    find(query_QD[:_WARM_UP])
    neighbors = find(query_QD, leave_one_out=judge.leave_one_out)
    yield (
      name,
      neighbors,
      {
        'dims': list(dims),
        'shortlists': list(shortlists),
        'metrics': judge(neighbors.ids_QK),
        'mflops_per_query': cost.mflops(num_rows, dims, shortlists),
        'seconds': neighbors.cost.seconds,
      },
    )


def write_neighbors(
  folder: pathlib.Path, name: str, neighbors: Neighbors
) -> None:
  """Writes `<name>.npz` with `ids` and `scores` [Q, K]."""
  with (
    files.replacing(folder / f'{name}.npz') as temporary,
    open(temporary, 'wb') as file,
  ):
    np.savez(file, ids=neighbors.ids_QK, scores=neighbors.scores_QK)
