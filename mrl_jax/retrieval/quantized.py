"""int8 and binary prefixes: a first stage of few bytes, reranked in float.

Queries are not quantised to int8: where one dim dwarfs the rest, as in OpenAI's
ada-002, steps of its size would erase all others. Equal codes tie, and ties go
to the lower id.
"""

import dataclasses
import functools
import importlib.util
import time
from typing import Literal

import jax
import numpy as np

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import neighbors
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cost import Cost
from mrl_jax.retrieval.cost import Neighbors
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.database import Database

# Rows sampled for a median.
_MEDIAN_ROWS = 65536
# With int8 codes, 2 * k + _SPARE rows are ranked by the float prefix.
_SPARE = 8


@dataclasses.dataclass(frozen=True)
class Quantized:
  """Codes of unit prefixes, beside the rows themselves; made by `quantize`.

  Attributes:
    kind: 'int8': code = (x - center) / scale, rounded. 'binary': the signs of
      x - center, eight dims a byte.
    dim: width of the prefix.
    center_d: for int8 the middle of each dim's range; for binary what rows and
      queries are compared with.
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
    """Bytes of a code."""
    return self.code_MB.shape[1]

  @checks.takes(k=checks.whole(), shortlist=checks.whole())
  def search(
    self,
    query_QD: np.ndarray | jax.Array,
    k: int,
    *,
    rerank_dim: int | None = None,
    shortlist: int | None = None,
    leave_one_out: inputs.LeaveOneOut = False,
  ) -> Neighbors:
    """The k nearest rows by their codes, reranked or not.

    With `rerank_dim` the codes find `shortlist` rows, which are reranked at
    that width in float. Without it a binary score is the share of equal signs
    minus that of different ones. int8 codes confuse rows that are almost
    equally near: slightly more than 2 * k are then ranked by the float prefix.
    Queries and `leave_one_out` are those of `neighbors.search`.

    Raises:
      ValueError: 1 <= k <= shortlist <= M does not hold, one of rerank_dim and
        shortlist without the other, or queries that do not fit.
    """
    M, D = self.database.shape
    if rerank_dim is not None:
      (rerank_dim,) = nesting.validate((rerank_dim,), D)
    start = time.perf_counter()
    widest = max(self.dim, rerank_dim or 0)
    query_QD = database_lib.queries(query_QD, self.database, widest)
    query_Qd = prefixes.unit(query_QD, self.dim)
    own_Q = inputs.own_rows(leave_one_out, len(query_QD), M)
    most = M if own_Q is None else M - 1
    if self.kind == 'int8' and rerank_dim is None and shortlist is None:
      rerank_dim = self.dim
      shortlist = min(2 * k + _SPARE, max(k, most))
    count = prefixes.check_shortlist(k, rerank_dim, shortlist, most)
    ids_QK, score_QK = self.by_codes(query_Qd, count + M - most)
    if own_Q is not None:
      ids_QK, score_QK = inputs.drop_own(own_Q, ids_QK, score_QK)
    # A dim of a code counts as one multiply-add.
    mflops, read = M * self.dim / 1e6, M * self.row_bytes
    if rerank_dim is not None:
      ids_QK, score_QK = neighbors.rerank(
        query_QD, self.database, ids_QK, k, dim=rerank_dim
      )
      mflops += count * rerank_dim / 1e6
      read += count * rerank_dim * self.database.row_bytes / D
    paid = Cost(mflops, read, M, time.perf_counter() - start)
    return Neighbors(ids_QK, score_QK, paid)

  def by_codes(
    self, query_Qd: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """(ids [Q, k], scores [Q, k]) of unit queries, without any float row."""
    if self.kind == 'int8':
      found = exact.nearest(
        query_Qd * self.scale_d, self._codes, k, cosine=False
      )
      of_center_Q1 = (query_Qd @ self.center_d)[:, None]
      return found.ids_QK, np.clip(found.score_QK + of_center_Q1, -1, 1)
    is_above_Qd = query_Qd > self.center_d
    if importlib.util.find_spec('faiss'):
      import faiss

      # The counting variant keeps rows in order, so that lower ids win ties.
      distance_QK, ids_QK = faiss.knn_hamming(
        np.packbits(is_above_Qd, axis=1), self.code_MB, k, variant='mc'
      )
      return ids_QK, 1 - 2 * distance_QK / np.float32(self.dim)
    sign_Qd = np.where(is_above_Qd, 1, -1).astype(np.float32)
    found = exact.nearest(sign_Qd, self._codes, k, cosine=False)
    return found.ids_QK, found.score_QK / self.dim

  @functools.cached_property
  def _codes(self) -> Database:
    """The codes as rows: numbers of int8, or signs."""
    rows_Md = self.code_MB
    if self.kind == 'binary':
      bit_Md = np.unpackbits(rows_Md, axis=1, count=self.dim)
      rows_Md = 2 * bit_Md.astype(np.int8) - 1
    return Database(rows_Md, {}, rows_Md.dtype)


@checks.takes(
  kind=checks.choice('int8', 'binary'),
  center=checks.choice('mean', 'median', 'zero'),
)
def quantize(
  database_MD: np.ndarray | jax.Array | Database,
  kind: Literal['int8', 'binary'],
  dim: int | None = None,
  *,
  center: Literal['mean', 'median', 'zero'] = 'mean',
) -> Quantized:
  """Quantises the unit prefixes of width `dim`; None: all of D.

  `center` is for binary codes: each bit tells whether a number is above the
  mean or median of its dim in the database, or above zero. After a ReLU no
  number is negative, and zero as the center makes bits that tell little.

  A prefix shorter than `inputs.SHORTEST` is coded like zeros. Raises ValueError
  for an unknown kind or center, a width beyond D, or rows that `prepare`
  refuses.
  """
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
