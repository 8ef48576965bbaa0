"""Accuracy against cost, measured: which setting is the cheapest that will do.

A candidate is one way to search; CANDIDATES lists what makes them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import importlib.util
import math
import time
from typing import Literal, NamedTuple

import numpy as np

from mrl_jax import retrieval
from mrl_jax.retrieval import ann
from mrl_jax.retrieval import compare
from mrl_jax.retrieval import cost
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.quantized import quantize

Cost = Literal['mflops', 'bytes', 'ms']


class Candidate(NamedTuple):
  """A way to search, and what it costs in a database of a planned size.

  Attributes:
    name: the widths, and the rows that are reranked.
    row_bytes: stored for each row.
    mflops: multiply-adds a query, in millions.
    bytes: read for a query.
    search: from queries [Q, D] to ids [Q, k].
  """

  name: str
  row_bytes: float
  mflops: float
  bytes: float
  search: Callable[[np.ndarray], np.ndarray]


class Point(NamedTuple):
  """A candidate measured.

  `accuracy` is mAP@10, or k-Recall@k without labels, in percent; `ms` of a
  query in the database at hand, all queries together; the rest is the
  candidate's.
  """

  name: str
  accuracy: float
  mflops: float
  bytes: float
  ms: float
  row_bytes: float


def exact(
  database: Database, dims: Sequence[int], *, k: int, num_rows: int, **_
) -> Iterator[Candidate]:
  """At each width alone, of which only the prefix is stored."""
  for dim in dims:
    yield _funnel(database, (dim,), (k,), num_rows)


def adaptive(
  database: Database,
  dims: Sequence[int],
  *,
  k: int,
  num_rows: int,
  shortlists: Sequence[int],
) -> Iterator[Candidate]:
  """From each width every wider one, with every shortlist."""
  for i, shortlist_dim in enumerate(dims):
    for rerank_dim in dims[i + 1 :]:
      for shortlist in shortlists:
        yield _funnel(
          database, (shortlist_dim, rerank_dim), (shortlist, k), num_rows
        )


def funnels(
  database: Database,
  dims: Sequence[int],
  *,
  k: int,
  num_rows: int,
  shortlists: Sequence[int],
) -> Iterator[Candidate]:
  """The paper's: shortlists that halve from width to width."""
  plan = compare.plan(tuple(dims), (), k=k, shortlist=max(shortlists))
  for steps, kept in plan.values():
    if len(steps) > 2:
      yield _funnel(database, steps, kept, num_rows)


def codes(
  database: Database,
  dims: Sequence[int],
  *,
  k: int,
  num_rows: int,
  shortlists: Sequence[int],
) -> Iterator[Candidate]:
  """int8 and signs of each width, reranked at the full one."""
  for kind in ('int8', 'binary'):
    for dim in dims:
      quantized = quantize(database, kind, dim)
      for shortlist in shortlists:
        yield _reranked(
          f'{kind} {dim}', quantized, database, k, shortlist,
          row_bytes=quantized.row_bytes,
          mflops=num_rows * dim / 1e6,
          read=num_rows * quantized.row_bytes,
        )  # fmt: skip


def cells(
  database: Database,
  dims: Sequence[int],
  *,
  k: int,
  num_rows: int,
  shortlists: Sequence[int],
) -> Iterator[Candidate]:
  """AdANNS-IVF of each width, reranked at the full one; with Faiss installed.

  As many cells are planned as are measured, the square root of the rows here:
  the accuracy belongs to the share of the rows that is scanned.
  """
  if importlib.util.find_spec('faiss') is None:
    return
  count = round(math.sqrt(database.shape[0]))
  for dim in dims[:-1]:
    index = ann.build(database, 'ivf', dim, num_cells=count)
    for probes in _PROBES:
      if probes > count:
        continue
      scanned = count + probes * num_rows / count
      yield _reranked(
        f'ivf {dim}, {probes} probes', index, database, k, max(shortlists),
        row_bytes=index.row_bytes(),
        mflops=dim * scanned / 1e6,
        read=4 * dim * scanned,
        probes=probes,
      )  # fmt: skip


# Further kinds of index are added here: each is called as these are, and yields
# its candidates.
CANDIDATES = (exact, adaptive, funnels, codes, cells)
_PROBES = (1, 4, 16)


def candidates(
  database: Database,
  dims: Sequence[int],
  *,
  k: int,
  num_rows: int,
  shortlists: Sequence[int],
) -> list[Candidate]:
  """All candidates; `num_rows` are those of the database that is planned."""
  return [
    candidate
    for make in CANDIDATES
    for candidate in make(
      database, dims, k=k, num_rows=num_rows, shortlists=shortlists
    )
  ]


def measure(candidate: Candidate, query_QD: np.ndarray, judge) -> Point:
  """Searches twice, so that compiling does not count."""
  candidate.search(query_QD)
  start = time.perf_counter()
  ids_QK = candidate.search(query_QD)
  ms = 1e3 * (time.perf_counter() - start) / len(query_QD)
  return Point(
    candidate.name, accuracy(judge, ids_QK), candidate.mflops, candidate.bytes,
    ms, candidate.row_bytes,
  )  # fmt: skip


def accuracy(judge: compare.Judge, ids_QK: np.ndarray) -> float:
  """mAP@10, or k-Recall@10 without labels, in percent."""
  values = judge(ids_QK)
  # The last is of the largest k.
  wanted = ('map', 'krecall')
  return [value for name, value in values.items() if name.startswith(wanted)][
    -1
  ]


def front(points: Iterable[Point], by: Cost = 'mflops') -> list[Point]:
  """Those that none cheaper equals in accuracy, the cheapest first."""
  best, kept = -np.inf, []
  for point in sorted(points, key=lambda p: (getattr(p, by), -p.accuracy)):
    if point.accuracy > best:
      best = point.accuracy
      kept.append(point)
  return kept


def recommend(
  points: Iterable[Point],
  *,
  at_least: float,
  row_bytes: float = np.inf,
  by: Cost = 'mflops',
) -> Point | None:
  """The cheapest point of that accuracy, within bytes a row; None if none is.

  Of points that cost the same, the one of the fewest bytes a row.
  """
  points = [
    point
    for point in points
    if point.accuracy >= at_least and point.row_bytes <= row_bytes
  ]
  cheapness = lambda point: (getattr(point, by), point.row_bytes)
  return min(points, key=cheapness, default=None)


def _reranked(
  name, index, database, k, shortlist, *, row_bytes, mflops, read, **options
) -> Candidate:
  """An index as the first stage, and the full width of what it finds."""
  D = database.shape[1]
  return Candidate(
    f'{name} → {D}, K {shortlist}',
    row_bytes=row_bytes + database.row_bytes,
    mflops=mflops + shortlist * D / 1e6,
    bytes=read + shortlist * database.row_bytes,
    search=lambda query_QD: (
      index.search(
        query_QD, k, rerank_dim=D, shortlist=shortlist, **options
      ).ids_QK
    ),
  )


def _funnel(database, dims, shortlists, num_rows) -> Candidate:
  name = ' → '.join(map(str, dims))
  if len(dims) > 1:
    name += f', K {"·".join(map(str, shortlists[:-1]))}'
  itemsize = database.row_bytes / database.shape[1]
  mflops = cost.mflops(num_rows, dims, shortlists)
  return Candidate(
    name,
    # One copy serves all widths.
    row_bytes=dims[-1] * itemsize,
    mflops=mflops,
    bytes=1e6 * mflops * itemsize,
    search=lambda query_QD: (
      retrieval.funnel(
        query_QD, database, dims=dims, shortlists=shortlists
      ).ids_QK
    ),
  )
