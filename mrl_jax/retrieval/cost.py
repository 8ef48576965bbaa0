"""The result of a search, and its cost."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of a search.

  Attributes:
    mflops: multiply-adds per query, in millions.
    bytes: bytes of embeddings or codes that a query had to look at; queries
      that are searched together share what they read.
    scanned: rows that the first stage scored for a query.
    seconds: time of the whole call, for all its queries.
  """

  mflops: float
  bytes: float
  scanned: float
  seconds: float


class _IdsAndScores(NamedTuple):
  ids_QK: np.ndarray
  scores_QK: np.ndarray


class Neighbors(_IdsAndScores):
  """The nearest rows of each query, best first; ties go to the lower id.

  Scores tie where their float32 values are equal. A matrix product may round
  two equal rows differently in the last bit, by their position in it.

  Attributes:
    ids_QK: int64 rows of the database.
    scores_QK: float32 similarities at the last width that scored them; cosines
      are in [-1, 1].
    cost: a `Cost`; it is no element of the tuple (ids, scores).
  """

  cost: Cost | None = None

  def __new__(cls, ids_QK, scores_QK, cost: Cost | None = None):
    self = super().__new__(cls, ids_QK, scores_QK)
    self.cost = cost
    return self


def mflops(
  num_rows: int, dims: Sequence[int], shortlists: Sequence[int] = ()
) -> float:
  """Millions of multiply-adds per query (one counts as one FLOP).

  `dims[0]` scans all rows; `dims[i]` scores the `shortlists[i - 1]` rows that
  the step before kept. With one rerank it is `(D_s * M + K * D_r) / 1e6`, the
  formula behind figure 8 of the paper.
  """
  scored = (num_rows, *shortlists[: len(dims) - 1])
  return sum(n * dim for n, dim in zip(scored, dims, strict=True)) / 1e6
