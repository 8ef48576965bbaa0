"""Checks and converts the arguments of public functions, by one rule each.

    @takes(logits_GNC=floats('GNC'), label_N=integers('N'), k=whole(1))
    def function(logits_GNC, label_N, k): …

A rule is called with the name and the value of an argument. It returns the
value that the function gets, or raises a ValueError of one line that names the
argument, its value, and what would be right. None passes where it is the
argument's default.
"""

from collections.abc import Callable
import functools
import inspect
import math
import operator
from typing import Any, TypeVar

import jax
from jax import numpy as jnp
import numpy as np

Rule = Callable[[str, Any], Any]
_Function = TypeVar('_Function', bound=Callable)
# Numbers are used in float32.
_LARGEST = float(np.finfo(np.float32).max)
_KINDS = {
  'floats': jnp.floating,
  'integers': jnp.integer,
  'numbers': jnp.number,
  'booleans': jnp.bool_,
  'complex': jnp.complexfloating,
}


def takes(**rules: Rule) -> Callable[[_Function], _Function]:
  """A decorator that passes the named arguments through these rules."""

  def decorate(function):
    signature = inspect.signature(function)
    defaults = {name: signature.parameters[name].default for name in rules}

    @functools.wraps(function)
    def checked(*args, **kwargs):
      bound = signature.bind(*args, **kwargs)
      for name, rule in rules.items():
        value = bound.arguments.get(name)
        if name in bound.arguments and not (
          value is None and defaults[name] is None
        ):
          bound.arguments[name] = rule(name, value)
      return function(*bound.args, **bound.kwargs)

    return checked

  return decorate


def shown(value: Any) -> str:
  """The value in one line for an error message; arrays as dtype and shape."""
  if is_array(value) and value.ndim:
    return f'{value.dtype} of shape {value.shape}'
  text = ' '.join(repr(value).split())
  return text if len(text) <= 100 else f'{text[:100]}…'


def is_array(value: Any) -> bool:
  """Whether the value is a numpy or JAX array, which may be traced."""
  return isinstance(value, np.ndarray | jax.Array)


def is_whole(value: Any) -> bool:
  """Whether the value is an integer of any library; True and False are not."""
  if isinstance(value, bool) or _is_a(value, 'booleans'):
    return False
  try:
    operator.index(value)
  except TypeError:
    return False
  return True


def whole(least: int = 1, most: int = 2**31 - 1) -> Rule:
  """Takes an integer of any library in [least, most]; returns an int."""

  def rule(name, value):
    limits = f'a whole number in [{least}, {most}]'
    if not is_whole(value) or not least <= operator.index(value) <= most:
      raise ValueError(f'{name} {shown(value)}: must be {limits}')
    return operator.index(value)

  return rule


def number(least: float = -math.inf, most: float = math.inf) -> Rule:
  """Takes a finite real number in [least, most], also a traced one."""
  limits = '' if least == -most else f' in [{least}, {most}]'

  def rule(name, value):
    if isinstance(value, jax.core.Tracer):
      return value
    found = value
    if isinstance(value, np.generic | np.ndarray) and not value.ndim:
      found = value.item()
    is_real = isinstance(found, int | float) and not isinstance(found, bool)
    if _is_a(value, 'floats') and not value.ndim:
      is_real = True  # A jax.Array, or bfloat16.
    # Comparisons that NaN fails.
    if not is_real or not (abs(found) <= _LARGEST and least <= found <= most):
      raise ValueError(
        f'{name} {shown(value)}: must be a finite number{limits}'
      )
    return float(found) if isinstance(found, int) and found > 2**53 else found

  return rule


def positive(name: str, value: Any) -> Any:
  """Takes a finite number above 0, also a traced one."""
  found = number()(name, value)
  if not isinstance(found, jax.core.Tracer) and not found > 0:
    raise ValueError(f'{name} {shown(value)}: must be positive')
  return found


def choice(*choices: Any) -> Rule:
  def rule(name, value):
    if not isinstance(value, str) or value not in choices:
      raise ValueError(f'{name} {shown(value)}: must be one of {choices}')
    return value

  return rule


def dtype(*names: str) -> Rule:
  """Takes one of these dtypes, or its name."""

  def rule(name, value):
    try:
      known = value is not None and jnp.dtype(value).name in names
    except (TypeError, ValueError):
      known = False
    if not known:
      raise ValueError(f'{name} {shown(value)}: must be one of {names}')
    return value

  return rule


def instance(kind: type) -> Rule:
  def rule(name, value):
    if not isinstance(value, kind):
      raise ValueError(f'{name} {shown(value)}: must be a {kind.__name__}')
    return value

  return rule


def truth(name: str, value: Any) -> bool:
  """Takes True or False; 0, 1 and other values are refused."""
  if not isinstance(value, bool | np.bool_):
    raise ValueError(f'{name} {shown(value)}: must be True or False')
  return bool(value)


def listed(name: str, value: Any) -> tuple:
  """Takes an ordered sequence: a list, a tuple, a range or an array [N]."""
  if is_array(value) and value.ndim == 1:
    return tuple(value.tolist())
  if not isinstance(value, list | tuple | range):
    raise ValueError(f'{name} {shown(value)}: must be a list or tuple')
  return tuple(value)


def wholes(least: int = 1, most: int = 2**31 - 1) -> Rule:
  """Takes a sequence of integers that is not empty; returns a tuple."""

  def rule(name, value):
    values = tuple(whole(least, most)(name, x) for x in listed(name, value))
    if not values:
      raise ValueError(f'{name} {shown(value)}: must not be empty')
    return values

  return rule


def floats(letters: str, *, empty: bool = False) -> Rule:
  """Takes an array of floats, one axis for each letter; see `as_array`.

  `empty` allows axes of length 0.
  """
  return _array('floats', letters, empty)


def numbers(letters: str, *, empty: bool = False) -> Rule:
  """Takes an array of integers or floats."""
  return _array('numbers', letters, empty)


def integers(letters: str, *, empty: bool = False) -> Rule:
  return _array('integers', letters, empty)


def booleans(letters: str, *, empty: bool = False) -> Rule:
  return _array('booleans', letters, empty)


def _array(kind: str, letters: str, empty: bool) -> Rule:
  right = f'{kind} [{", ".join(letters)}]' + (
    '' if empty else ', each at least 1'
  )

  def rule(name, value):
    array = as_array(name, value)
    if (
      array.ndim != len(letters)
      or not _is_a(array, kind)
      or _is_a(array, 'complex')
      or not (empty or array.size)
    ):
      raise ValueError(f'{name}, {shown(array)}: must be {right}')
    _check_byte_order(name, array)
    return array

  return rule


def as_floats(name: str, value: Any, like: Any = np.float32) -> np.ndarray:
  """Takes floats of any shape; returns a numpy array, or a memmap as it is.

  They keep their dtype; numbers in lists, which have none, become `like`.
  """
  array = as_array(name, value)
  is_list = isinstance(value, list | tuple)
  is_list |= str(getattr(value, 'dtype', '')) == 'object'
  if is_list and array.dtype.kind in 'iuf':
    with np.errstate(over='ignore'):  # The caller refuses infinity by its row.
      array = array.astype(like)
  if not _is_a(array, 'floats') or array.dtype.itemsize > 8:
    raise ValueError(f'{name} of {array.dtype}: must be floating')
  _check_byte_order(name, array)
  return array if isinstance(array, np.memmap) else np.asarray(array)


def as_int64(name: str, value: Any) -> np.ndarray:
  """Takes integers of any shape; returns them as int64 in numpy.

  Nothing then overflows in a narrow type of the caller's. Floats are refused,
  since those of few bits make different labels equal; so are bools.
  """
  array = np.asarray(as_array(name, value))
  if array.dtype.kind not in 'iu':
    raise ValueError(f'{name} of {array.dtype}: must be integers')
  if array.dtype.kind == 'u' and array.size and array.max() >= 1 << 63:
    raise ValueError(f'{name}: {array.max()} is beyond int64')
  return array.astype(np.int64, copy=False)


def all_finite(name: str, array: np.ndarray) -> np.ndarray:
  """Returns the array; raises ValueError if it holds NaN or infinity."""
  finite = np.isfinite(array)
  if not finite.all():
    first = np.unravel_index(np.argmin(finite), array.shape)
    where = ', '.join(map(str, first))
    raise ValueError(f'{name}[{where}] is {array[first]}: must be finite')
  return array


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


def _check_byte_order(name: str, array: np.ndarray | jax.Array) -> None:
  if not np.dtype(array.dtype).isnative:
    raise ValueError(
      f'{name} of {array.dtype}: must be in the byte order of this machine'
    )


def _is_a(value: Any, kind: str) -> bool:
  return (is_array(value) or isinstance(value, np.generic)) and jnp.issubdtype(
    value.dtype, _KINDS[kind]
  )
