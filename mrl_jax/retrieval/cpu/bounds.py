"""Upper bounds on scores, from a prefix and the norms of what lies beyond it.

By the Cauchy-Schwarz inequality a dot product of width D is bounded at width d:

    q·x <= q[:d]·x[:d] + |q[d:]| |x[d:]|

With q = (2, 1, 2, 0) and x = (1, 2, 0, 2) and d = 2, the prefixes give 2 + 2 =
4 and the tails at most 2 * 2 = 4, so that x scores at most 8; it does score 4.
If k other rows score more than 8, x need not be read beyond its prefix.

>>> q, x = np.float32([[2, 1, 2, 0]]), np.float32([[1, 2, 0, 2]])
>>> level_L = np.array([0, 2, 4])
>>> tail_q, tail_x = tails(q, level_L), tails(x, level_L)
>>> print(tail_q, tail_x)
[[3. 2. 0.]] [[3. 2. 0.]]
>>> print(q[0] @ x[0], q[0, :2] @ x[0, :2] + tail_q[0, 1] * tail_x[0, 1])
4.0 8.0
"""

import functools

import numpy as np

from mrl_jax.retrieval.cpu.compiled import sums

# The narrowest width that rows are bounded at; the others are its doubles.
NARROWEST = 32


@functools.cache
def levels(dim: int) -> np.ndarray:
  """The widths at which rows of this width are bounded, from 0 to it."""
  widths = [0]
  while (width := NARROWEST << (len(widths) - 1)) < dim:
    widths.append(width)
  return np.array([*widths, dim])


@sums
def tails(vector_Nd, level_L):
  """Returns the norms of what lies beyond each level, float32 [N, L]."""
  tail_NL = np.zeros((len(vector_Nd), len(level_L)), np.float32)
  for n in range(len(vector_Nd)):
    beyond = np.float32(0)
    for i in range(len(level_L) - 2, -1, -1):
      square = np.float32(0)
      for j in range(np.uintp(level_L[i]), np.uintp(level_L[i + 1])):
        square += vector_Nd[n, j] * vector_Nd[n, j]
      beyond += square
      tail_NL[n, i] = np.sqrt(beyond)
  return tail_NL


@sums
def squares(rows_BD, width_L, square_GB, begin, end):
  """Writes the sums of squares of the dims between widths, for these rows."""
  for b in range(begin, end):
    for g in range(len(square_GB)):
      square = np.float32(0)
      for j in range(np.uintp(width_L[g]), np.uintp(width_L[g + 1])):
        square += rows_BD[b, j] * rows_BD[b, j]
      square_GB[g, b] = square
