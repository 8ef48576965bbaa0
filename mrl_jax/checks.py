"""What public functions take: one rule for each kind of argument.

    @takes(logits_GNC=floats('GNC'), label_N=integers('N'), k=whole(1))
    def function(logits_GNC, label_N, k): …

Each rule returns the value that the function gets, or raises a ValueError of
one line that names the argument, its value, and what would be right. None
passes where it is the argument's default.
"""

from collections.abc import Callable, Collection
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
# Numbers are computed with in float32.
_LARGEST = float(np.finfo(np.float32).max)
_KINDS = {
  'floats': jnp.floating,
  'integers': jnp.integer,
  'numbers': jnp.number,
  'booleans': jnp.bool_,
  'complex': jnp.complexfloating,
}


def takes(**rules: Rule) -> Callable[[_Function], _Function]:
  """Has the arguments of a function pass these rules, by their names."""

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
  """A value in an error: one line, an array by its dtype and shape."""
  if is_array(value) and value.ndim:
    return f'{value.dtype} of shape {value.shape}'
  text = ' '.join(repr(value).split())
  return text if len(text) <= 100 else f'{text[:100]}…'


def is_array(value: Any) -> bool:
  """Whether it is a numpy or JAX array, of concrete numbers or traced."""
  return isinstance(value, np.ndarray | jax.Array)


def is_whole(value: Any) -> bool:
  """Whether it is an integer, of whatever library; True and False are not."""
  if isinstance(value, bool) or _is_a(value, 'booleans'):
    return False
  try:
    operator.index(value)
  except TypeError:
    return False
  return True


def whole(least: int = 1, most: int = 2**31 - 1) -> Rule:
  """Takes an integer of Python or numpy in [least, most]; returns an int."""

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
  """Takes True or False, and nothing that merely is taken for one of them."""
  if not isinstance(value, bool | np.bool_):
    raise ValueError(f'{name} {shown(value)}: must be True or False')
  return bool(value)


def listed(name: str, value: Any) -> tuple:
  """Takes what has an order: a list, a tuple, a range, an array [N]."""
  if is_array(value) and value.ndim == 1:
    return tuple(value.tolist())
  if not isinstance(value, list | tuple | range):
    raise ValueError(f'{name} {shown(value)}: must be a list or tuple')
  return tuple(value)


def wholes(least: int = 1, most: int = 2**31 - 1) -> Rule:
  """Takes a list of integers; returns a tuple of them, not empty."""

  def rule(name, value):
    values = tuple(whole(least, most)(name, x) for x in listed(name, value))
    if not values:
      raise ValueError(f'{name} {shown(value)}: must not be empty')
    return values

  return rule


def floats(
  letters: str, *, also: Collection[type] = (), empty: bool = False
) -> Rule:
  """Takes an array of floats, one axis for each letter.

  Lists, and tensors of other libraries, are made numpy arrays; a `np.memmap`
  stays on disk, and a JAX array on its device. Values of the types `also` pass.
  """
  return _array('floats', letters, tuple(also), empty)


def numbers(letters: str, *, empty: bool = False) -> Rule:
  """As `floats`, and takes integers as well."""
  return _array('numbers', letters, (), empty)


def integers(letters: str, *, empty: bool = False) -> Rule:
  return _array('integers', letters, (), empty)


def booleans(letters: str, *, empty: bool = False) -> Rule:
  return _array('booleans', letters, (), empty)


def _array(
  kind: str, letters: str, also: tuple[type, ...], empty: bool
) -> Rule:
  right = f'{kind} [{", ".join(letters)}]' + (
    '' if empty else ', each at least 1'
  )

  def rule(name, value):
    if also and isinstance(value, also):
      return value
    array = as_array(name, value)
    if (
      array.ndim != len(letters)
      or not _is_a(array, kind)
      or _is_a(array, 'complex')
      or not (empty or array.size)
    ):
      raise ValueError(f'{name}, {shown(array)}: must be {right}')
    if not np.dtype(array.dtype).isnative:
      raise ValueError(
        f'{name}, {shown(array)}: must be in the byte order of this machine'
      )
    return array

  return rule


def all_finite(name: str, array: np.ndarray) -> np.ndarray:
  """The array; ValueError if NaN or infinity is in it."""
  finite = np.isfinite(array)
  if not finite.all():
    first = np.unravel_index(np.argmin(finite), array.shape)
    where = ', '.join(map(str, first))
    raise ValueError(f'{name}[{where}] is {array[first]}: must be finite')
  return array


def as_array(name: str, value: Any) -> np.ndarray | jax.Array:
  """The value as an array, converted if it is none.

  Raises ValueError for what has no shape, and for masked values.
  """
  if isinstance(value, np.ma.MaskedArray):
    if np.ma.is_masked(value):
      raise ValueError(
        f'{name} has masked values: fill them, or leave them out'
      )
    return value.data
  if is_array(value) and not isinstance(value, np.matrix):
    return value
  try:
    return np.asarray(value)
  # Tensors of other libraries raise many types.
  except Exception as error:
    line = ' '.join(str(error).split())[:100]
    raise ValueError(
      f'{name} {shown(value)}: must be an array ({line})'
    ) from None


def _is_a(value: Any, kind: str) -> bool:
  return (is_array(value) or isinstance(value, np.generic)) and jnp.issubdtype(
    value.dtype, _KINDS[kind]
  )
