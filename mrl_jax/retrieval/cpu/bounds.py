"""Upper bounds on scores, from a prefix and the norms of what lies beyond it.

By the Cauchy-Schwarz inequality a dot product of width D is bounded at width d:

    q·x <= q[:d]·x[:d] + |q[d:]| |x[d:]|

With q = (2, 1, 2, 0) and x = (1, 2, 0, 2) and d = 2, the prefixes give 2 + 2 =
4 and the tails at most 2 * 2 = 4, so that x scores at most 8; it does score 4.
If k other rows score more than 8, x need not be read beyond its prefix.

>>> q, x = np.float32([[2, 1, 2, 0]]), np.float32([[1, 2, 0, 2]])
>>> norm = lambda rows: np.linalg.norm(rows, axis=1)
>>> tail_q, tail_x = query_tails(q, 2), row_tails(norm(x), norm(x[:, :2]))
>>> print(q[0] @ x[0], (q[:, :2] @ x[:, :2].T + tail_q @ tail_x.T).round(2))
4.0 [[8.]]

Two numbers behind each prefix make the bound a plain product of longer vectors:
the norm of the tail, and the norm of the whole times what rounding may cost.
"""

import numpy as np

from mrl_jax.retrieval import inputs

# Numbers behind a prefix.
TAIL = 2
# Rounding error of a float32 dot product, as a share of the product of norms.
_ROUNDING = 1e-5


def query_tails(query_Qd: np.ndarray, width: int) -> np.ndarray:
  """Numbers to append to query prefixes of this width, float32 [Q, TAIL]."""
  norm = lambda x_Nd: np.linalg.norm(x_Nd, axis=1, keepdims=True)
  parts = [norm(query_Qd[:, width:]), _ROUNDING * norm(query_Qd)]
  return np.concatenate(parts, axis=1).astype(np.float32)


def row_tails(norm: np.ndarray, prefix_norm: np.ndarray) -> np.ndarray:
  """Numbers to append to row prefixes, from the rows' norms: [..., TAIL]."""
  # NO_DIRECTION stands for any norm below SHORTEST.
  norm = np.where(norm == inputs.NO_DIRECTION, inputs.SHORTEST, norm)
  prefix_norm = np.where(prefix_norm == inputs.NO_DIRECTION, 0, prefix_norm)
  squares = np.maximum(norm**2 - prefix_norm**2, 0)
  return np.stack([np.sqrt(squares + _ROUNDING * norm**2), norm], axis=-1)


def extend(query_Qd: np.ndarray, width: int) -> np.ndarray:
  """Query prefixes with their tails, whose products with rows are bounds."""
  tail_QA = query_tails(query_Qd, width)
  return np.concatenate([query_Qd[:, :width], tail_QA], axis=1)
