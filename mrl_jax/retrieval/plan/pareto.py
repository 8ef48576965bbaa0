"""Measures searches, and finds the cheapest with a sufficient accuracy."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import importlib.util
import itertools
import math
import time
from typing import Literal, NamedTuple

import numpy as np

from mrl_jax import retrieval
from mrl_jax.retrieval import ann
from mrl_jax.retrieval import compare
from mrl_jax.retrieval import cost
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cost import Neighbors
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.quantized import quantize

Cost = Literal['mflops', 'bytes', 'ms']


class Candidate(NamedTuple):
  """A search, and its cost in a database of the planned size.

  Attributes:
    name: the widths, and the numbers of rows that are reranked.
    row_bytes: bytes stored per row.
    mflops: multiply-adds per query, in millions.
    bytes: bytes read per query.
    search: finds the neighbours of queries [Q, D].
  """

  name: str
  row_bytes: float
  mflops: float
  bytes: float
  search: Callable[..., Neighbors]


class Point(NamedTuple):
  """A measured candidate.

  Attributes:
    accuracy: mAP@10, nDCG@10, or without labels k-Recall@k, in percent.
    ms: time per query on the measured database, all queries searched together.
    k_recall: k-Recall@k in percent; relevant rows may be beside those nearest,
      and an accuracy then better than that of the exact search.
  """

  name: str
  accuracy: float
  mflops: float
  bytes: float
  ms: float
  row_bytes: float
  k_recall: float | None = None


class Grid(NamedTuple):
  """The settings to combine into candidates.

  Attributes:
    database: the rows to measure on.
    dims: the widths, the full one last.
    k: the neighbours wanted.
    num_rows: rows of the database that is planned, for the costs.
    shortlists: numbers of rows to rerank.
  """

  database: Database
  dims: Sequence[int]
  k: int
  num_rows: int
  shortlists: Sequence[int]


def exact(grid: Grid) -> Iterator[Candidate]:
  """Exact search at each width, of which only the prefix is stored."""
  for dim in grid.dims:
    yield _funnel(grid, (dim,), (grid.k,))


def adaptive(grid: Grid) -> Iterator[Candidate]:
  """A rerank for every pair of widths and every shortlist."""
  for pair in itertools.combinations(grid.dims, 2):
    for shortlist in grid.shortlists:
      yield _funnel(grid, pair, (shortlist, grid.k))


def funnels(grid: Grid) -> Iterator[Candidate]:
  """The paper's funnels, whose shortlists halve from width to width."""
  plan = compare.plan(grid.dims, (), k=grid.k, shortlist=max(grid.shortlists))
  for steps, kept in plan.values():
    if len(steps) > 2:
      yield _funnel(grid, steps, kept)


def codes(grid: Grid) -> Iterator[Candidate]:
  """Codes of each width, alone and reranked at the full width.

  Alone, no float row is stored: it is what fits a budget. RaBitQ needs Faiss.
  """
  kinds = ['int8', 'binary', *['rabitq'] * _has_faiss()]
  for kind, dim in itertools.product(kinds, grid.dims):
    make = functools.partial(quantize, grid.database, kind, dim)
    row_bytes, reads = dim if kind == 'int8' else -(-dim // 8), dim
    if kind == 'rabitq':  # Two lengths beside the bits; a look-up for a byte.
      make = functools.partial(ann.build, grid.database, kind, dim)
      row_bytes = reads = row_bytes + 8
    make = functools.cache(make)
    stage = Candidate(
      f'{kind} {dim}', row_bytes, grid.num_rows * reads / 1e6,
      grid.num_rows * row_bytes, _lazily(make),
    )  # fmt: skip
    alone = functools.partial(stage.search, k=grid.k)
    if kind == 'int8':  # Its search would rank by floats.
      alone = functools.partial(_by_codes, make, grid.k)
    yield stage._replace(name=f'{stage.name} alone', search=alone)
    for shortlist in grid.shortlists:
      yield _reranked(grid, stage, shortlist)


def cells(grid: Grid) -> Iterator[Candidate]:
  """AdANNS-IVF of each width, reranked at the full one; needs Faiss.

  The number of cells is the square root of the measured rows, also for the
  planned ones: accuracy depends on the share of the rows that is scanned.
  """
  count = round(math.sqrt(grid.database.shape[0]))
  for dim in grid.dims[:-1] if _has_faiss() else ():
    make = functools.cache(
      functools.partial(ann.build, grid.database, 'ivf', dim, num_cells=count)
    )
    for probes in (1, 4, 16):
      if probes > count:
        continue
      scanned = count + probes * grid.num_rows / count
      # Faiss keeps an id of 8 bytes in its lists, `Cells` one of 4 bytes.
      stage = Candidate(
        f'ivf {dim}, {probes} probes', 12 + 4 * dim, dim * scanned / 1e6,
        4 * dim * scanned, _lazily(make, probes=probes),
      )  # fmt: skip
      yield _reranked(grid, stage, max(grid.shortlists))


def _has_faiss() -> bool:
  return importlib.util.find_spec('faiss') is not None


def _by_codes(make, k, query_QD) -> Neighbors:
  query_Qd = prefixes.unit(query_QD, make().dim)
  return Neighbors(*make().by_codes(query_Qd, k))


def _lazily(make, **options):
  """A search of what `make` builds, which it builds when it is first asked."""
  return lambda query_QD, **more: make().search(query_QD, **options, **more)


# Each of these yields candidates; further kinds of index are added here.
CANDIDATES = (exact, adaptive, funnels, codes, cells)


def candidates(grid: Grid) -> list[Candidate]:
  """The candidates of every kind."""
  return [candidate for make in CANDIDATES for candidate in make(grid)]


def measure(candidate: Candidate, query_QD: np.ndarray, judge) -> Point:
  """Measures the second of two searches, so that compiling does not count."""
  candidate.search(query_QD)
  start = time.perf_counter()
  ids_QK = candidate.search(query_QD).ids_QK
  ms = 1e3 * (time.perf_counter() - start) / len(query_QD)
  # The last of each belongs to the largest k, at most 10.
  values = judge(ids_QK)
  accuracy, k_recall = (
    [value for name, value in values.items() if name.startswith(metric)][-1]
    for metric in (judge.accuracy, 'krecall')
  )
  return Point(
    candidate.name, accuracy, candidate.mflops, candidate.bytes, ms,
    candidate.row_bytes, k_recall,
  )  # fmt: skip


def front(points: Iterable[Point], by: Cost = 'mflops') -> list[Point]:
  """The points that are more accurate than all cheaper ones, cheapest first."""
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
  """The cheapest point with this accuracy and at most these bytes per row.

  Of equally cheap points the one with the fewest bytes per row is taken; None
  if there is no such point.
  """
  points = [
    point
    for point in points
    if point.accuracy >= at_least and point.row_bytes <= row_bytes
  ]
  cheapness = lambda point: (getattr(point, by), point.row_bytes)
  return min(points, key=cheapness, default=None)


def _reranked(grid: Grid, stage: Candidate, shortlist: int) -> Candidate:
  """A first stage whose shortlist is reranked at the full width."""
  database, D = grid.database, grid.database.shape[1]
  return Candidate(
    f'{stage.name} → {D}, K {shortlist}',
    row_bytes=stage.row_bytes + database.row_bytes,
    mflops=stage.mflops + shortlist * D / 1e6,
    bytes=stage.bytes + shortlist * database.row_bytes,
    search=functools.partial(
      stage.search, k=grid.k, rerank_dim=D, shortlist=shortlist
    ),
  )


def _funnel(grid: Grid, dims, shortlists) -> Candidate:
  name = ' → '.join(map(str, dims))
  if len(dims) > 1:
    name += f', K {"·".join(map(str, shortlists[:-1]))}'
  itemsize = grid.database.row_bytes / grid.database.shape[1]
  mflops = cost.mflops(grid.num_rows, dims, shortlists)
  return Candidate(
    name,
    # One copy serves all widths.
    row_bytes=dims[-1] * itemsize,
    mflops=mflops,
    bytes=1e6 * mflops * itemsize,
    search=functools.partial(
      retrieval.funnel,
      database_MD=grid.database,
      dims=dims,
      shortlists=shortlists,
    ),
  )
