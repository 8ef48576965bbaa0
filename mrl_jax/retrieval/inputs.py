"""Constants and argument rules that all searches and metrics share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrl_jax import checks

# A shorter vector has no direction, since its squares are lost in float32. Rows
# and queries that are shorter at full width are refused; a prefix that is
# shorter has cosine 0 with everything.
SHORTEST = 1e-13
# Stored in place of the norm of such a prefix: what it divides becomes 0.
NO_DIRECTION = np.float32(1e38)
# The label of an example that does not count.
IGNORED = -1

LeaveOneOut = bool | Sequence[int] | np.ndarray


def read_only(array: np.ndarray) -> np.ndarray:
  """A view that has the same Numba type whether `array` is writable or not."""
  view = array.view(np.ndarray)
  view.flags.writeable = False
  return view


def labels(values: Any, name: str, count: int) -> np.ndarray:
  """Integer labels as int64 [count]; raises ValueError for anything else."""
  label_N = checks.as_int64(name, values)
  if label_N.shape != (count,):
    raise ValueError(
      f'{name} of shape {label_N.shape}: must be of shape ({count},)'
    )
  return label_N


def check_shortlists(
  shortlists: Sequence[int], dims: Sequence[int]
) -> tuple[int, ...]:
  """Raises ValueError unless each of dims has one, and none is longer."""
  shortlists = checks.wholes(-(2**31))('shortlists', shortlists)
  if len(shortlists) != len(dims):
    raise ValueError(
      f'shortlists {shortlists}: one is needed for each of dims {dims}'
    )
  if shortlists[-1] < 1 or list(shortlists) != sorted(shortlists)[::-1]:
    raise ValueError(f'shortlists {shortlists}: must be positive, never grow')
  return shortlists


def own_rows(
  leave_one_out: LeaveOneOut, num_queries: int, num_rows: int
) -> np.ndarray | None:
  """The row to leave out of each query's neighbours, int64 [Q]; or None.

  `leave_one_out`: True if query i is row i of the database; or the row that
  each query is, -1 for none. Raises ValueError for rows that are not there.
  """
  if isinstance(leave_one_out, bool | np.bool_):
    if not leave_one_out:
      return None
    if num_queries != num_rows:
      raise ValueError(
        f'leave_one_out of {num_queries} queries in {num_rows} rows: give each '
        "query's row of the database, -1 where it is none"
      )
    return np.arange(num_rows)
  own_Q = labels(leave_one_out, 'leave_one_out', num_queries)
  if own_Q.min() < -1 or own_Q.max() >= num_rows:
    raise ValueError(
      f'leave_one_out in [{own_Q.min()}, {own_Q.max()}]: must be rows in '
      f'[0, {num_rows}), or -1'
    )
  return own_Q


def drop_own(
  own_Q: np.ndarray, *arrays_QK: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Drops one of K + 1 columns for each query, its own row or else the last.

  The first array holds ids; the others are dropped from alike.
  """
  drop_QK = arrays_QK[0] == own_Q[:, None]
  drop_QK &= (own_Q >= 0)[:, None]
  drop_QK[~drop_QK.any(1), -1] = True
  Q = len(own_Q)
  return tuple(array_QK[~drop_QK].reshape(Q, -1) for array_QK in arrays_QK)
