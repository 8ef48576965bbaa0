"""Upper bounds on scores, from a prefix and the norms of what lies beyond it.

By the Cauchy-Schwarz inequality a dot product of width D is bounded at width d:

    q·x <= q[:d]·x[:d] + |q[d:]| |x[d:]|

With q = (2, 1, 2, 0) and x = (1, 2, 0, 2) and d = 2, the prefixes give 2 + 2 =
4 and the tails at most 2 * 2 = 4, so that x scores at most 8; it does score 4.
If k other rows score more than 8, x need not be read beyond its prefix.

>>> q, x = np.float32([[2, 1, 2, 0]]), np.float32([[1, 2, 0, 2]])
>>> tail_q, tail_x = tails(q, (0, 2, 4)), tails(x, (0, 2, 4))
>>> print(tail_q, tail_x)
[[3. 2. 0.]] [[3. 2. 0.]]
>>> print(q[0] @ x[0], q[0, :2] @ x[0, :2] + tail_q[0, 1] * tail_x[0, 1])
4.0 8.0
"""

from collections.abc import Sequence

import numpy as np

# The narrowest width that rows are bounded at; the others are its doubles.
NARROWEST = 32


def levels(dim: int) -> np.ndarray:
  """The widths at which rows of this width are bounded, from 0 to it."""
  widths = [0]
  while (width := NARROWEST << (len(widths) - 1)) < dim:
    widths.append(width)
  return np.array([*widths, dim])


def tails(vector_Nd: np.ndarray, level_L: Sequence[int]) -> np.ndarray:
  """The norms of what lies beyond each level, float32 [N, L]."""
  tail_NL = np.zeros((len(vector_Nd), len(level_L)), np.float32)
  square_NL = np.add.reduceat(np.square(vector_Nd), level_L[:-1], axis=1)
  tail_NL[:, :-1] = np.cumsum(square_NL[:, ::-1], axis=1)[:, ::-1]
  return np.sqrt(tail_NL)
