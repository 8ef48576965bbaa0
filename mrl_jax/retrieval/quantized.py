"""int8 and binary prefixes: a first stage of few bytes, rescored in float.

Queries of int8 codes stay in float: in int8 steps of its largest dim a query
would lose all others where one dwarfs them, as in OpenAI's ada-002. Equal codes
tie, and ties go to the lower id.
"""

from collections.abc import Iterator
import dataclasses
import importlib.util
import time
from typing import Literal

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import neighbors
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cost import Cost
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.database import Database
from mrl_jax.retrieval.neighbors import Neighbors

# Rows decoded at a time, queries scored against them at a time, and rows that a
# center's median is taken of.
_BLOCK = 8192
_QUERY_BLOCK = 512
_MEDIAN_ROWS = 65536
# Rows beyond twice k that int8 codes find for the float prefix to rank.
_SPARE = 8


@dataclasses.dataclass(frozen=True)
class Quantized:
  """Codes of unit prefixes beside the one resident copy; made by `quantize`.

  Attributes:
    kind: 'int8': code = (x - center) / scale, rounded. 'binary': the signs of
      x - center, eight dims a byte.
    dim: width of the prefix.
    center_d: the middle of each dim's values for int8; what signs are taken
      about, of rows and queries, for binary.
    scale_d: the length of one int8 step in each dim; 1 for binary.
    code_MB: int8 [M, dim] or uint8 [M, ceil(dim / 8)].
  """

  kind: str
  dim: int
  database: Database
  center_d: np.ndarray
  scale_d: np.ndarray
  code_MB: np.ndarray

  @property
  def row_bytes(self) -> int:
    """Bytes a row beside the resident copy."""
    return self.code_MB.shape[1]

  def mflops(self, shortlist: int = 0, rerank_dim: int = 0) -> float:
    """Multiply-adds a query in millions; a dim of a code counts as one."""
    rescored = shortlist * rerank_dim
    return (len(self.code_MB) * self.dim + rescored) / 1e6

  @checks.takes(
    query_QD=checks.floats('QD'),
    k=checks.whole(),
    rerank_dim=checks.whole(),
    shortlist=checks.whole(),
  )
  def search(
    self,
    query_QD: np.ndarray | jax.Array,
    k: int,
    *,
    rerank_dim: int | None = None,
    shortlist: int | None = None,
    leave_one_out: inputs.LeaveOneOut = False,
  ) -> Neighbors:
    """The k nearest rows by their codes, or of those rescored in float.

    Without `rerank_dim` binary scores are the share of equal signs less that of
    others; of int8 a little more than twice k rows are found by their codes and
    ranked by the cosine of the float prefix, since codes alone confuse rows
    that are nearly as near. Queries and `leave_one_out` are those of
    `neighbors.search`.

    Raises:
      ValueError: 1 <= k <= shortlist <= M does not hold, one of rerank_dim and
        shortlist without the other, or queries that do not fit.
    """
    M, D = self.database.shape
    if rerank_dim is not None:
      (rerank_dim,) = nesting.validate((rerank_dim,), D)
    start = time.perf_counter()
    query_QD, query_Qd = prefixes.unit_queries(
      query_QD, self.database, self.dim, rerank_dim
    )
    own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
    most = M if own_Q is None else M - 1
    if self.kind == 'int8' and rerank_dim is None and shortlist is None:
      rerank_dim = self.dim
      shortlist = min(2 * inputs.number(k, 'k') + _SPARE, max(k, most))
    count = prefixes.check_shortlist(k, rerank_dim, shortlist, most)
    ids_QK, score_QK = self._nearest(query_Qd, count + M - most)
    if own_Q is not None:
      ids_QK, score_QK = inputs.drop_own(own_Q, ids_QK, score_QK)
    read = M * self.row_bytes
    if rerank_dim is None:
      cost = self.mflops()
    else:
      ids_QK, score_QK = neighbors.rerank(
        query_QD, self.database, ids_QK, k, dim=rerank_dim
      )
      read += count * rerank_dim * self.database.row_bytes / D
      cost = self.mflops(count, rerank_dim)
    paid = Cost(cost, read, M, time.perf_counter() - start)
    return Neighbors(ids_QK, score_QK, paid)

  def _nearest(self, query_Qd, k):
    """(ids [Q, k], scores [Q, k])."""
    if self.kind == 'int8':
      found = exact.nearest(
        query_Qd * self.scale_d, self.code_MB, {}, k, cosine=False
      )
      of_center_Q1 = (query_Qd @ self.center_d)[:, None]
      return found.ids_QK, np.clip(found.score_QK + of_center_Q1, -1, 1)
    is_above_Qd = query_Qd > self.center_d
    if importlib.util.find_spec('faiss'):
      import faiss

      forks.check()
      # Counting keeps rows in their order, and so the tie rule.
      distance_QK, ids_QK = faiss.knn_hamming(
        np.packbits(is_above_Qd, axis=1), self.code_MB, k, variant='mc'
      )
      return ids_QK, 1 - 2 * distance_QK / np.float32(self.dim)
    sign_Qd = np.where(is_above_Qd, 1, -1).astype(np.float32)
    parts = [
      _best(sign_Qd[start : start + _QUERY_BLOCK], self._blocks(), k)
      for start in range(0, len(sign_Qd), _QUERY_BLOCK)
    ]
    ids_QK, score_QK = (np.concatenate(x) for x in zip(*parts, strict=True))
    return ids_QK, score_QK / self.dim

  def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, signs as float32 [B, dim]) of binary codes."""
    for first in range(0, len(self.code_MB), _BLOCK):
      code_BB = self.code_MB[first : first + _BLOCK]
      bit_Bd = np.unpackbits(code_BB, axis=1, count=self.dim)
      yield first, bit_Bd.astype(np.float32) * 2 - 1


@checks.takes(
  database_MD=checks.floats('MD', also=(Database,)),
  kind=checks.choice('int8', 'binary'),
  dim=checks.whole(),
  center=checks.choice('mean', 'median', 'zero'),
)
def quantize(
  database_MD: np.ndarray | jax.Array | Database,
  kind: Literal['int8', 'binary'],
  dim: int | None = None,
  *,
  center: Literal['mean', 'median', 'zero'] = 'mean',
) -> Quantized:
  """Codes of the unit prefixes of width `dim`; None: all of D.

  `center` is for binary. After a ReLU no number is negative, and signs about
  zero say little: the mean or median of each dim over the database makes them
  tell. It is kept with the codes, and queries are compared with it as well.

  A prefix without a direction (see `inputs.SHORTEST`) is coded as zeros are.
  Raises ValueError for an unknown kind or center, a width beyond D, or rows
  that `prepare` refuses.
  """
  if kind not in ('int8', 'binary'):
    raise ValueError(f"kind {kind!r}: must be 'int8' or 'binary'")
  if center not in ('mean', 'median', 'zero'):
    raise ValueError(f"center {center!r}: must be 'mean', 'median' or 'zero'")
  database = database_MD
  if not isinstance(database, Database):
    database = database_lib.host_database(database_MD)
  rows_MD = database.embedding_MD
  M, D = rows_MD.shape
  (dim,) = nesting.validate((D if dim is None else dim,), D)
  zero_d, one_d = np.zeros(dim, np.float32), np.ones(dim, np.float32)
  blocks = lambda: prefixes.unit_blocks(rows_MD, dim)
  if kind == 'binary':
    center_d = zero_d if center == 'zero' else _center(rows_MD, dim, center)
    code_MB = np.empty((M, -(-dim // 8)), np.uint8)
    for first, row_Bd in blocks():
      bits = np.packbits(row_Bd > center_d, axis=1)
      code_MB[first : first + len(bits)] = bits
    return Quantized(kind, dim, database, center_d, one_d, code_MB)
  low_d = np.min([row_Bd.min(0) for _, row_Bd in blocks()], axis=0)
  high_d = np.max([row_Bd.max(0) for _, row_Bd in blocks()], axis=0)
  center_d, half_d = (high_d + low_d) / 2, (high_d - low_d) / 2
  scale_d = np.where(half_d == 0, 1, half_d / 127).astype(np.float32)
  code_MB = np.empty((M, dim), np.int8)
  for first, row_Bd in blocks():
    code_MB[first : first + len(row_Bd)] = np.rint(
      (row_Bd - center_d) / scale_d
    )
  return Quantized(kind, dim, database, center_d, scale_d, code_MB)


def _center(rows_MD, dim, center):
  if center == 'median':
    _, row_Nd = prefixes.unit_sample(rows_MD, dim, _MEDIAN_ROWS, seed=0)
    return np.median(row_Nd, axis=0).astype(np.float32)
  total_d = sum(
    row_Bd.sum(0, dtype=np.float64)
    for _, row_Bd in prefixes.unit_blocks(rows_MD, dim)
  )
  return (total_d / len(rows_MD)).astype(np.float32)


def _best(code_Qd, blocks, k) -> tuple[np.ndarray, np.ndarray]:
  """(ids [Q, k], products [Q, k]); `blocks` come in the order of the rows.

  A row in a later block loses a tie, so only what beats the k-th best so far is
  looked at again.
  """
  Q = len(code_Qd)
  query_N, id_N = np.zeros((2, 0), np.int64)
  score_N = np.zeros(0, np.float32)
  worst_Q = np.full(Q, -np.inf, np.float32)
  for first, code_Bd in blocks:
    score_QB = code_Qd @ code_Bd.T
    if len(id_N) < Q * k and k < len(code_Bd):
      # Of the first block all would be better than nothing.
      at_least_Q1 = np.partition(score_QB, -k, axis=1)[:, -k, None]
      better_QB = (score_QB >= at_least_Q1) & (score_QB > worst_Q[:, None])
    else:
      better_QB = score_QB > worst_Q[:, None]
    new_query, new_id = np.nonzero(better_QB)
    query_N = np.concatenate([query_N, new_query])
    score_N = np.concatenate([score_N, score_QB[better_QB]])
    id_N = np.concatenate([id_N, new_id + first])
    order = np.lexsort((id_N, -score_N, query_N))
    query_N, score_N, id_N = query_N[order], score_N[order], id_N[order]
    count_Q = np.bincount(query_N, minlength=Q)
    rank_N = np.arange(len(query_N)) - (count_Q.cumsum() - count_Q)[query_N]
    query_N, score_N, id_N = (x[rank_N < k] for x in (query_N, score_N, id_N))
    if len(id_N) == Q * k:
      worst_Q = score_N.reshape(Q, k)[:, -1]
  return id_N.reshape(Q, k), score_N.reshape(Q, k)
