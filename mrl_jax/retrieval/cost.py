"""What a search costs, counted as the paper counts it."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a search paid.

  Attributes:
    mflops: millions of multiply-adds a query.
    bytes: of embeddings or codes that a query had to look at; queries searched
      together share what they read.
    scanned: rows that the first stage scored for a query.
    seconds: of the whole call, all its queries.
  """

  mflops: float
  bytes: float
  scanned: float
  seconds: float


def mflops(
  num_rows: int, dims: Sequence[int], shortlists: Sequence[int] = ()
) -> float:
  """Millions of multiply-adds a query (one multiply-add counts as one FLOP).

  `dims[0]` scans all rows; `dims[i]` scores the `shortlists[i - 1]` rows that
  the step before kept. With one rerank it is `(D_s * M + K * D_r) / 1e6`, the
  formula behind the paper's figure 8.
  """
  scored = (num_rows, *shortlists[: len(dims) - 1])
  return sum(n * dim for n, dim in zip(scored, dims, strict=True)) / 1e6
