"""Widths of each number type that fit a budget of bytes, and their costs."""

import math
import re
from typing import NamedTuple

from mrl_jax import checks
from mrl_jax.retrieval import cost

# Bits per number.
KINDS = {'float32': 32, 'bfloat16': 16, 'int8': 8, 'binary': 1}
_UNITS = {
  f'{prefix}{i}B': (1024 if i else 1000) ** power
  for power, prefix in enumerate(('', 'K', 'M', 'G', 'T', 'P'))
  for i in ('', 'i')
}


class Fit(NamedTuple):
  """The widest prefix that fits, and what a query then costs.

  `mflops` and `query_bytes` are those of the exact search at `dims`; those of
  `adaptive_…` shortlist by the first dims and rerank by all.
  """

  kind: str
  dims: int
  row_bytes: int
  mflops: float
  query_bytes: float
  adaptive_mflops: float
  adaptive_query_bytes: float


@checks.takes(
  rows=checks.whole(1, 2**63),
  budget=checks.number(1),
  shortlist_dim=checks.whole(),
  shortlist=checks.whole(1, 2**63),
  width=checks.whole(),
)
def fits(
  rows: int,
  budget: float,
  *,
  shortlist_dim: int = 16,
  shortlist: int = 200,
  width: int | None = None,
) -> list[Fit]:
  """The widest prefix of each kind that `budget` bytes hold for all rows.

  `width` is that of the embedding, which no prefix exceeds. If no dim fits,
  dims is 0. Raises ValueError for numbers that are not positive.
  """
  if shortlist > rows:
    raise ValueError(f'shortlist {shortlist}: must be at most {rows}, the rows')
  bytes_of = lambda dims, bits: math.ceil(dims * bits / 8)
  found = []
  for kind, bits in KINDS.items():
    # Rows take whole bytes.
    dims = int(budget // rows) * 8 // bits
    dims = dims if width is None else min(dims, width)
    scan = min(shortlist_dim, dims)
    row_bytes = bytes_of(dims, bits)
    scan_bytes = rows * bytes_of(scan, bits)
    found.append(
      Fit(
        kind,
        dims,
        row_bytes,
        cost.mflops(rows, (dims,)),
        rows * row_bytes,
        cost.mflops(rows, (scan, dims), (shortlist,)),
        scan_bytes + shortlist * row_bytes,
      )
    )
  return found


def parse_bytes(text: str) -> int:
  """Parses '100GB', '1.5TiB' or a number of bytes; kB is 1000, KiB 1024.

  Raises ValueError for anything else.
  """
  match = re.fullmatch(r'([\d.]+(?:e\d+)?) ?([kKMGTP]?i?B)?', text)
  unit = (match[2] or 'B').replace('k', 'K') if match else None
  if unit not in _UNITS:
    raise ValueError(f'{text!r}: must be bytes, such as 100GB or 1.5TiB')
  try:
    return round(float(match[1]) * _UNITS[unit])
  except (ValueError, OverflowError):
    raise ValueError(f'{text!r}: is no finite number of bytes') from None


def parse_count(text: str) -> int:
  """Parses '50e6' or '50000000'; raises ValueError for no whole number."""
  value = float(text)
  if not math.isfinite(value) or value != int(value):
    raise ValueError(f'{text!r}: must be a whole number')
  return int(value)
