"""The most that a row can score, from a prefix and norms.

It is a product of prefixes, each with BEHIND numbers behind it: the norm of
what is left, and what rounding may cost.
"""

import numpy as np

from mrl_jax.retrieval import inputs

BEHIND = 2
# Of float32 sums, as a share of the norms of what is multiplied.
_ROUNDING = 1e-5


def behind_queries(query_Qd: np.ndarray, width: int) -> np.ndarray:
  """Of queries that a prefix of this width is taken of, float32 [Q, BEHIND]."""
  norm = lambda x_Nd: np.linalg.norm(x_Nd, axis=1, keepdims=True)
  parts = [norm(query_Qd[:, width:]), _ROUNDING * norm(query_Qd)]
  return np.concatenate(parts, axis=1).astype(np.float32)


def behind_rows(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
  """Of rows with these norms, of all and of the prefix: [..., BEHIND]."""
  # NO_DIRECTION stands for any norm below SHORTEST.
  whole = np.where(whole == inputs.NO_DIRECTION, inputs.SHORTEST, whole)
  part = np.where(part == inputs.NO_DIRECTION, 0, part)
  squares = np.maximum(whole**2 - part**2, 0)
  return np.stack([np.sqrt(squares + _ROUNDING * whole**2), whole], axis=-1)
