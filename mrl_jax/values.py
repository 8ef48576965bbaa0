"""Tells what a value is, and converts it to an array."""

import operator
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

_KINDS = {
  'floats': jnp.floating,
  'integers': jnp.integer,
  'numbers': jnp.number,
  'booleans': jnp.bool_,
  'complex': jnp.complexfloating,
}


def shown(value: Any) -> str:
  """The value in one line for an error message; arrays as dtype and shape."""
  if is_array(value) and value.ndim:
    return f'{value.dtype} of shape {value.shape}'
  text = ' '.join(repr(value).split())
  return text if len(text) <= 100 else f'{text[:100]}…'


def refusal(name: str, value: Any, right: str) -> ValueError:
  """The error of an argument that must be `right`."""
  return ValueError(f'{name} {shown(value)}: must be {right}')


def is_array(value: Any) -> bool:
  """Whether the value is a numpy or JAX array, which may be traced."""
  return isinstance(value, np.ndarray | jax.Array)


def is_whole(value: Any) -> bool:
  """Whether the value is an integer of any library; True and False are not."""
  if type(value) is int:
    return True
  if isinstance(value, bool) or is_a(value, 'booleans'):
    return False
  try:
    operator.index(value)
  except TypeError:
    return False
  return True


def is_a(value: Any, kind: str) -> bool:
  """Whether an array or a number of numpy is of this kind, as `floats`."""
  return (is_array(value) or isinstance(value, np.generic)) and jnp.issubdtype(
    value.dtype, _KINDS[kind]
  )


def as_array(name: str, value: Any) -> np.ndarray | jax.Array:
  """Converts lists, tensors of torch and columns of pandas to a numpy array.

  A `np.memmap` stays on disk, and a JAX array on its device. Raises ValueError
  for rows of several lengths, and for masked numbers, which would count.
  """
  is_ready = is_array(value) and not isinstance(
    value, np.ma.MaskedArray | np.matrix
  )
  if is_ready and value.dtype != object:
    return value
  values = value if isinstance(value, list | tuple) else [value]
  try:
    array = _converted(value)
    if array.dtype == object:
      values = [*values, *array.ravel()]
      array = np.asarray(array.tolist())
  # Other libraries raise many types.
  except Exception as error:
    line = ' '.join(str(error).split())[:100]
    raise ValueError(
      f'{name} {shown(value)}: must be an array ({line})'
    ) from None
  if any(np.ma.is_masked(x) for x in values):
    raise ValueError(
      f'{name} has masked values: fill them, or leave the rows out'
    )
  return array


def _converted(value: Any) -> np.ndarray:
  if hasattr(value, 'detach'):  # A tensor of torch.
    value = value.detach().cpu()
    if str(value.dtype) == 'torch.bfloat16':  # Unknown to numpy by itself.
      return value.float().numpy().astype(jnp.bfloat16)
    return value.numpy()
  if hasattr(value, 'to_numpy'):
    value = value.to_numpy()
  return np.asarray(value)


def check_byte_order(name: str, array: np.ndarray | jax.Array) -> None:
  if not np.dtype(array.dtype).isnative:
    raise ValueError(
      f'{name} of {array.dtype}: must be in the byte order of this machine'
    )
