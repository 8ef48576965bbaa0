"""What a search costs, counted as the paper counts it."""

from collections.abc import Sequence


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
