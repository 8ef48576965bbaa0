"""Converts what users bring (lists, tensors, columns), or refuses it.

Every search, metric and export passes its arguments through here. Integers
become int64, so that no arithmetic happens in a narrow type of the caller's.
"""

from collections.abc import Iterable, Sequence
import operator
from typing import Any

from jax import numpy as jnp
import numpy as np

# A shorter vector has no direction, since its squares are lost in float32. Rows
# and queries that are shorter at full width are refused; a prefix that is
# shorter has cosine 0 with everything.
SHORTEST = 1e-13
# The norm that stands for such a prefix: what it divides becomes 0.
NO_DIRECTION = np.float32(1e38)
# The label of an example that does not count.
IGNORED = -1

LeaveOneOut = bool | Sequence[int] | np.ndarray


def to_array(values: Any, name: str) -> np.ndarray:
  """Converts to numpy, without a copy where there is a way; memmaps stay maps.

  Takes arrays of numpy, jax, torch and pandas, lists, and columns of lists.
  Raises ValueError for rows of several lengths, for what is not numbers, and
  for masked numbers, which would count otherwise.
  """
  array = values
  if type(values) is not np.ndarray and not isinstance(values, np.memmap):
    _check_masks(values if isinstance(values, list | tuple) else [values], name)
    try:
      array = _convert(values)
    # Each library has errors of its own for sparse, ragged and foreign values.
    except Exception as error:
      reason = ' '.join(str(error).split())[:160]
      raise ValueError(f'{name}: not an array of numbers: {reason}') from None
  if array.dtype == object:
    _check_masks(array.ravel(), name)
    try:
      array = np.asarray(array.tolist())
    except (ValueError, TypeError, OverflowError):
      raise ValueError(f'{name}: the rows must be of one length') from None
  if array.dtype.kind not in 'biufcV':
    raise ValueError(f'{name} of {array.dtype}: must be numbers')
  return array


def floats(values: Any, name: str, like: Any = np.float32) -> np.ndarray:
  """Floats in their own dtype; lists, which have none, become `like`.

  Raises ValueError for what `to_array` refuses, numbers that are not floating,
  and another byte order than this machine's.
  """
  array = to_array(values, name)
  is_list = isinstance(values, list | tuple)
  is_list |= str(getattr(values, 'dtype', '')) == 'object'
  if is_list and array.dtype.kind in 'iuf':
    with np.errstate(over='ignore'):  # Infinity is refused with the row's name.
      array = array.astype(like)
  if not jnp.issubdtype(array.dtype, jnp.floating) or array.itemsize > 8:
    raise ValueError(f'{name} of {array.dtype}: must be floating')
  if not array.dtype.isnative:
    raise ValueError(
      f'{name} of {array.dtype}: must be in the byte order of this machine'
    )
  return array


def integers(values: Any, name: str) -> np.ndarray:
  """Labels or ids as int64, whatever they came in.

  Raises ValueError for what `to_array` refuses, floats (those of few bits make
  different labels equal), bools, and numbers beyond int64.
  """
  array = to_array(values, name)
  if array.dtype.kind not in 'iu':
    raise ValueError(f'{name} of {array.dtype}: must be integers')
  if array.dtype.kind == 'u' and array.size and array.max() >= 1 << 63:
    raise ValueError(f'{name}: {array.max()} is beyond int64')
  return array.astype(np.int64, copy=False)


def labels(values: Any, name: str, count: int) -> np.ndarray:
  """Integer labels int64 [count], or ValueError."""
  label_N = integers(values, name)
  if label_N.shape != (count,):
    raise ValueError(
      f'{name} of shape {label_N.shape}: must be of shape ({count},)'
    )
  return label_N


def number(value: Any, name: str) -> int:
  """A whole number such as k, of Python, numpy or jax; or ValueError."""
  try:
    if isinstance(value, bool | np.bool_):
      raise TypeError
    return operator.index(value)
  except TypeError:
    raise ValueError(f'{name} {value!r}: must be a whole number') from None


def numbers(values: Iterable[Any], name: str) -> tuple[int, ...]:
  """Whole numbers such as shortlists; or ValueError."""
  try:
    return tuple(number(value, name) for value in values)
  except TypeError:
    raise ValueError(f'{name} {values!r}: must be whole numbers') from None


def queries(
  query_QD: Any, width: int, dtype: np.dtype, widest: int
) -> np.ndarray:
  """Queries as wide as the database, or cut to the widest prefix asked for.

  Raises ValueError for other widths, another dtype than the database's, or a
  query that is not finite or shorter than SHORTEST.
  """
  query_QD = floats(query_QD, 'queries', like=dtype)
  shape = query_QD.shape
  if query_QD.ndim != 2 or not shape[0] or shape[1] not in (width, widest):
    cut = '' if widest == width else f', or cut to [Q, {widest}]'
    hint = '; of one query give query[None]' if query_QD.ndim == 1 else ''
    raise ValueError(
      f'queries of shape {shape} for a database of width {width}: must be '
      f'[Q, {width}], Q at least 1{cut}{hint}'
    )
  if query_QD.dtype != dtype:
    raise ValueError(
      f'queries of {query_QD.dtype} for a database of {dtype}: must be the same'
    )
  return query_QD


def own_rows(
  leave_one_out: LeaveOneOut, num_queries: int, num_rows: int
) -> np.ndarray | None:
  """The row that is left out of each query's neighbours, int64 [Q]; or None.

  `leave_one_out`: True where query i is row i of the database; or the row of
  each query, -1 where it has none. Raises ValueError if that does not fit.
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
  """Of ids [Q, K + 1] and what belongs to them: all but a query's own row.

  Where it is not among the ids, the last one goes.
  """
  drop_QK = arrays_QK[0] == own_Q[:, None]
  drop_QK &= (own_Q >= 0)[:, None]
  drop_QK[~drop_QK.any(1), -1] = True
  Q = len(own_Q)
  return tuple(array_QK[~drop_QK].reshape(Q, -1) for array_QK in arrays_QK)


def _convert(values: Any) -> np.ndarray:
  if hasattr(values, 'detach'):  # A tensor of torch.
    values = values.detach().cpu()
    if str(values.dtype) == 'torch.bfloat16':  # numpy has none of its own.
      return values.float().numpy().astype(jnp.bfloat16)
    return values.numpy()
  if hasattr(values, 'to_numpy'):
    return np.asarray(values.to_numpy())
  return np.asarray(values)


def _check_masks(values: Iterable[Any], name: str) -> None:
  if any(np.ma.is_masked(value) for value in values):
    raise ValueError(
      f'{name}: masked numbers would count: fill them, or leave the rows out'
    )
