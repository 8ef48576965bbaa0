"""Nesting dims: the prefix widths at which an embedding must be useful."""

from collections.abc import Sequence
import itertools
import math
import operator


def doubling(first: int, last: int) -> tuple[int, ...]:
  """The paper's nesting dims: `first`, doubled until `last`, which is included.

  `doubling(8, 2048)` is the ResNet-50 set and `doubling(12, 768)` the ViT-B/16
  set of the paper (section 4.1). Raises ValueError unless 0 < first <= last.
  """
  if not 0 < first <= last:
    raise ValueError(f'doubling({first}, {last}): needs 0 < first <= last')
  dims = []
  while first < last:
    dims.append(first)
    first *= 2
  return (*dims, last)


def validate(nesting_dims: Sequence[int], dim: int) -> tuple[int, ...]:
  """Returns `nesting_dims` as a tuple, or raises ValueError naming the culprit.

  They must be integers, strictly increasing, positive, and at most `dim`, the
  width of the embedding.
  """
  try:
    dims = tuple(operator.index(m) for m in nesting_dims)
  except TypeError:
    raise ValueError(
      f'nesting_dims {nesting_dims!r}: every dim must be an integer'
    ) from None
  if not dims:
    raise ValueError('nesting_dims is empty: give at least one width')
  if dims[0] < 1:
    raise ValueError(f'nesting_dims {dims}: {dims[0]} is not positive')
  for previous, current in itertools.pairwise(dims):
    if current <= previous:
      raise ValueError(
        f'nesting_dims {dims}: {current} after {previous} does not increase'
      )
  if dims[-1] > dim:
    raise ValueError(
      f'nesting_dims {dims}: {dims[-1]} is beyond the embedding width {dim}'
    )
  return dims


def validate_weights(
  weights_G: Sequence[float] | None, num_granularities: int
) -> tuple[float, ...]:
  """Returns one loss weight per granularity; None or empty means all ones.

  Raises ValueError for another length, a negative weight, or all zeros.
  """
  if weights_G is None or not len(weights_G):
    return (1.0,) * num_granularities
  try:
    weights = tuple(float(weight) for weight in weights_G)
  except (TypeError, ValueError):
    raise ValueError(
      f'nesting_weights {weights_G!r}: must be numbers'
    ) from None
  if len(weights) != num_granularities:
    raise ValueError(
      f'nesting_weights {weights}: {len(weights)} weights for '
      f'{num_granularities} nesting dims'
    )
  # A comparison that NaN fails.
  if any(not 0 <= w < math.inf for w in weights) or not sum(weights):
    raise ValueError(
      f'nesting_weights {weights}: must be at least 0, and not all 0'
    )
  return weights
