"""A Faiss index of a prefix, searched beside the full-width database."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.ann import graph
from mrl_jax.retrieval.ann import ivf
from mrl_jax.retrieval.ann import pq
from mrl_jax.retrieval.ann.ivf import Cells
from mrl_jax.retrieval.cost import Cost
from mrl_jax.retrieval.cost import Neighbors
from mrl_jax.retrieval.database import Database


@dataclasses.dataclass(frozen=True)
class Index:
  """An index of prefixes; made by `ann.build` and `ann.files.load`.

  Attributes:
    kind: one of `ann.KINDS`.
    dim: the width of the graph, or of the cells (d_c).
    scan_dim: the width of the codes, or the default width of a scan (d_s).
    faiss_index: the graph or the codes; None for 'ivf', whose lists are made
      when a width is scanned for the first time.
    rotation_dd: the rotation of OPQ or RaBitQ.
    scanners: the Faiss index of each width that was scanned.
  """

  kind: str
  dim: int
  scan_dim: int
  database: Database
  cells: Cells | None = None
  faiss_index: Any = None
  rotation_dd: np.ndarray | None = None
  scanners: dict[int, Any] = dataclasses.field(default_factory=dict)

  @property
  def code_bytes(self) -> int:
    """Bytes of the code of a row; 0 without codes."""
    return self.faiss_index.code_size if self.kind.endswith('q') else 0

  def row_bytes(self) -> float:
    """Bytes of a row in the index."""
    if self.kind == 'hnsw':
      links = self.faiss_index.hnsw.neighbors.size() / self.faiss_index.ntotal
      return 4 * self.scan_dim + 4 * links
    # Faiss keeps an id of 8 bytes in its lists, `Cells` one of 4 bytes.
    listed = 0 if self.cells is None else 12
    return listed + (self.code_bytes or 4 * self.scan_dim)

  def _mflops(self, scan_dim: int, coarse_dim: int, scanned: float) -> float:
    """`(d_c * N_C + d_s * scanned) / 1e6` multiply-adds per query.

    With codes a row costs the bytes of its code in look-ups in place of d_s,
    and the query d_s * d_s for the rotation and d_s * 256 for the table (d_s *
    16 for that of RaBitQ).
    """
    num_cells = 0 if self.cells is None else len(self.cells.centroid_Cd)
    cost = coarse_dim * num_cells + scanned * (self.code_bytes or scan_dim)
    if self.code_bytes:
      rotation = 0 if self.rotation_dd is None else scan_dim
      entries = pq.CENTROIDS if self.kind.endswith('pq') else 16
      cost += scan_dim * (rotation + entries)
    return cost / 1e6

  @checks.takes(
    k=checks.whole(),
    probes=checks.whole(),
    effort=checks.whole(),
    shortlist=checks.whole(),
  )
  def search(
    self,
    query_QD: np.ndarray | jax.Array,
    k: int,
    *,
    scan_dim: int | None = None,
    coarse_dim: int | None = None,
    probes: int | None = None,
    effort: int | None = None,
    rerank_dim: int | None = None,
    shortlist: int | None = None,
    leave_one_out: inputs.LeaveOneOut = False,
  ) -> Neighbors:
    """The k nearest rows that the index finds.

    More cells are probed where the first hold fewer rows than asked for. A
    graph may find fewer: then ids end in -1 and scores in -inf, which
    `ann.labels_of` takes. Equal scores are in the order of ids, but which of
    equal rows Faiss leaves out at the end is undefined.

    Args:
      query_QD: as in `neighbors.search`, or cut to the widest of `scan_dim`,
        `rerank_dim` and, with cells, `coarse_dim`.
      k: neighbours, at most M.
      scan_dim: width (d_s) of the scan; None: as built.
      coarse_dim: width at which cells are looked up; None: d_c, the widest.
      probes: cells to scan; None: 1.
      effort: HNSW's efSearch; None: 16.
      rerank_dim: width at which `shortlist` rows are reranked; None: no rerank.
      shortlist: rows that the index finds for the rerank, at least k.
      leave_one_out: as in `neighbors.search`.

    Raises:
      ValueError: k or shortlist beyond M, a width beyond the embedding's or
        other than that of codes, an option that this kind does not have, or
        queries that do not fit.
    """
    start = time.perf_counter()
    forks.check()
    M, looked_up = self.database.shape[0], coarse_dim is not None
    scan_dim = self._check_widths(scan_dim, coarse_dim, rerank_dim)
    coarse_dim = coarse_dim or self.dim
    widest = max(scan_dim, rerank_dim or 0, coarse_dim if self.cells else 0)
    query_QD = database_lib.queries(query_QD, self.database, widest)
    query_Qd = prefixes.unit(query_QD, scan_dim)
    own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
    most = M if own_Q is None else M - 1
    count = prefixes.check_shortlist(k, rerank_dim, shortlist, most)
    if self.cells is None and (probes is not None or looked_up):
      raise ValueError(f'probes, coarse_dim: kind {self.kind!r} has no cells')
    if self.kind != 'hnsw' and effort is not None:
      raise ValueError(f'effort {effort}: only hnsw has it')
    found_count = count + M - most
    cell_QP = self._probe(query_QD, probes, coarse_dim, found_count)
    score_QK, ids_QK, scanned = self._scan(
      query_Qd, found_count, cell_QP, effort or 16
    )
    if not self.code_bytes:  # Codes decode to rows of other lengths.
      score_QK = np.clip(score_QK, -1, 1)
    found = _in_order(score_QK, ids_QK)
    if own_Q is not None:
      found = Neighbors(*inputs.drop_own(own_Q, *found))
    cost = self._mflops(scan_dim, coarse_dim, scanned)
    read = scanned * (self.code_bytes or 4 * scan_dim)
    read += 0 if cell_QP is None else 4 * coarse_dim * len(self.cells.size_C)
    if rerank_dim is not None:
      found = _rerank(query_QD, self.database, found.ids_QK, k, rerank_dim)
      cost += count * rerank_dim / 1e6
      read += count * rerank_dim * self.database.embedding_MD.dtype.itemsize
    seconds = time.perf_counter() - start
    paid = Cost(float(cost), float(read), float(scanned), seconds)
    return Neighbors(*found, paid)

  def _check_widths(self, scan_dim, coarse_dim, rerank_dim) -> int:
    D = self.database.embedding_MD.shape[1]
    scan_dim = self.scan_dim if scan_dim is None else scan_dim
    for dim, most in ((scan_dim, D), (coarse_dim, self.dim), (rerank_dim, D)):
      if dim is not None:
        nesting.validate((dim,), most)
    if self.code_bytes and scan_dim != self.scan_dim:
      raise ValueError(
        f'scan_dim {scan_dim}: {self.kind} codes were made of '
        f'{self.scan_dim} dims, and can be scanned at no other width'
      )
    return scan_dim

  def _probe(self, query_QD, probes, coarse_dim, count) -> np.ndarray | None:
    """Cells [Q, P] that hold at least `count` rows; -1 behind the last one."""
    if self.cells is None:
      return None
    num_cells = len(self.cells.centroid_Cd)
    probes = probes or 1
    if probes > num_cells:
      raise ValueError(f'probes {probes}: must be in [1, {num_cells}], cells')
    cell_QP = self.cells.nearest(query_QD, probes, coarse_dim)
    size_C = self.cells.size_C
    few_Q = size_C[cell_QP].sum(1) < count
    if not few_Q.any():
      return cell_QP
    every_FC = self.cells.nearest(query_QD[few_Q], num_cells, coarse_dim)
    # All cells up to the one with which there are enough rows.
    short_FC = size_C[every_FC].cumsum(1) < count
    short_FC = np.pad(short_FC, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
    more = int(short_FC.sum(1).max())
    padded_QP = np.full((len(cell_QP), more), -1)
    padded_QP[:, :probes] = cell_QP
    padded_QP[few_Q] = np.where(short_FC, every_FC, -1)[:, :more]
    return padded_QP

  def _scan(self, query_Qd, k, cell_QP, effort):
    dim, rows_MD = query_Qd.shape[1], self.database.embedding_MD
    if self.rotation_dd is not None:
      query_Qd = query_Qd @ self.rotation_dd.T
    if self.cells is None and self.code_bytes:
      return *self.faiss_index.search(query_Qd, k), len(rows_MD)
    if dim not in self.scanners:
      self.scanners[dim] = (
        graph.at_width(self.faiss_index, rows_MD, dim)
        if self.kind == 'hnsw'
        else self.faiss_index or ivf.flat(self.cells, rows_MD, dim)
      )
    if self.kind == 'hnsw':
      return graph.walk(self.scanners[dim], query_Qd, k, effort)
    size_QP = np.where(cell_QP < 0, 0, self.cells.size_C[cell_QP])
    scanned = size_QP.sum(1).mean()
    return *ivf.scan(self.scanners[dim], query_Qd, k, cell_QP), scanned


def _in_order(score_QK, ids_QK) -> Neighbors:
  """Sorts by score, then by id; ids of -1 come last, with scores of -inf."""
  score_QK = np.where(ids_QK < 0, -np.inf, score_QK).astype(np.float32)
  order_QK = np.lexsort((ids_QK, -score_QK))
  return Neighbors(
    np.take_along_axis(ids_QK, order_QK, axis=1),
    np.take_along_axis(score_QK, order_QK, axis=1),
  )


def _rerank(query_QD, database, ids_QK, k, dim) -> Neighbors:
  """`neighbors.rerank` of lists that may end in -1."""
  query_Qd = prefixes.unit(query_QD, dim)
  found = database.rescore(query_Qd, ids_QK, k, cosine=True)
  missing_QK = np.arange(k) >= (ids_QK >= 0).sum(1)[:, None]
  return Neighbors(
    np.where(missing_QK, -1, found.ids_QK),
    np.where(missing_QK, -np.inf, found.score_QK).astype(np.float32),
  )
