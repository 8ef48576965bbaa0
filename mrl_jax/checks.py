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

from mrl_jax import values

Rule = Callable[[str, Any], Any]
_Function = TypeVar('_Function', bound=Callable)
# Numbers are used in float32.
_LARGEST = float(np.finfo(np.float32).max)


def takes(**rules: Rule) -> Callable[[_Function], _Function]:
  """A decorator that passes the named arguments through these rules."""

  def decorate(function):
    parameters = inspect.signature(function).parameters
    defaults = {name: parameters[name].default for name in rules}
    places = {
      name: place
      for place, (name, parameter) in enumerate(parameters.items())
      if parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    }

    @functools.wraps(function)
    def checked(*args, **kwargs):
      # Not by Signature.bind, which takes longer than a small search.
      given = list(args)
      for name, rule in rules.items():
        holder, key = kwargs, name
        if name not in kwargs:
          holder, key = given, places.get(name, len(given))
          if key >= len(given):
            continue
        if holder[key] is not None or defaults[name] is not None:
          holder[key] = rule(name, holder[key])
      return function(*given, **kwargs)

    return checked

  return decorate


def whole(least: int = 1, most: int = 2**31 - 1) -> Rule:
  """Takes an integer of any library in [least, most]; returns an int."""

  def rule(name, value):
    if not values.is_whole(value) or not least <= operator.index(value) <= most:
      limits = f'a whole number in [{least}, {most}]'
      raise values.refusal(name, value, limits)
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
    if values.is_a(value, 'floats') and not value.ndim:
      is_real = True  # A jax.Array, or bfloat16.
    # Comparisons that NaN fails.
    if not is_real or not (abs(found) <= _LARGEST and least <= found <= most):
      raise values.refusal(name, value, f'a finite number{limits}')
    return float(found) if isinstance(found, int) and found > 2**53 else found

  return rule


def positive(name: str, value: Any) -> Any:
  """Takes a finite number above 0, also a traced one."""
  found = number()(name, value)
  if not isinstance(found, jax.core.Tracer) and not found > 0:
    raise values.refusal(name, value, 'positive')
  return found


def each(rule: Rule) -> Rule:
  """Takes what `rule` takes, or a list or an array [G] of such numbers.

  A list becomes a float32 array.
  """

  def rule_of_each(name, value):
    is_list = isinstance(value, list | tuple)
    if isinstance(value, jax.core.Tracer) or not (
      is_list or (values.is_array(value) and value.ndim)
    ):
      return rule(name, value)
    numbers = listed(name, value)
    for i, x in enumerate(numbers):
      rule(f'{name}[{i}]', x)
    return jnp.asarray(numbers, jnp.float32) if is_list else value

  return rule_of_each


def choice(*choices: Any) -> Rule:
  def rule(name, value):
    if not isinstance(value, str) or value not in choices:
      raise values.refusal(name, value, f'one of {choices}')
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
      raise values.refusal(name, value, f'one of {names}')
    return value

  return rule


def instance(kind: type) -> Rule:
  def rule(name, value):
    if not isinstance(value, kind):
      raise values.refusal(name, value, f'a {kind.__name__}')
    return value

  return rule


def truth(name: str, value: Any) -> bool:
  """Takes True or False; 0, 1 and other values are refused."""
  if not isinstance(value, bool | np.bool_):
    raise values.refusal(name, value, 'True or False')
  return bool(value)


def listed(name: str, value: Any) -> tuple:
  """Takes an ordered sequence: a list, a tuple, a range or an array [N]."""
  if values.is_array(value) and value.ndim == 1:
    return tuple(value.tolist())
  if not isinstance(value, list | tuple | range):
    raise values.refusal(name, value, 'a list or tuple')
  return tuple(value)


def wholes(least: int = 1, most: int = 2**31 - 1) -> Rule:
  """Takes a sequence of integers that is not empty; returns a tuple."""

  def rule(name, value):
    found = tuple(whole(least, most)(name, x) for x in listed(name, value))
    if not found:
      raise ValueError(f'{name} {values.shown(value)}: must not be empty')
    return found

  return rule


def _array(kind: str, letters: str, *, empty: bool = False) -> Rule:
  right = f'{kind} [{", ".join(letters)}]' + (
    '' if empty else ', each at least 1'
  )

  def rule(name, value):
    array = values.as_array(name, value)
    if (
      array.ndim != len(letters)
      or not values.is_a(array, kind)
      or values.is_a(array, 'complex')
      or not (empty or array.size)
    ):
      raise ValueError(f'{name}, {values.shown(array)}: must be {right}')
    values.check_byte_order(name, array)
    return array

  return rule


# Rules for arrays, called with a letter for each axis; see `values.as_array`.
# `empty` allows axes of length 0; `numbers` are integers or floats.
floats = functools.partial(_array, 'floats')
numbers = functools.partial(_array, 'numbers')
integers = functools.partial(_array, 'integers')
booleans = functools.partial(_array, 'booleans')


def as_floats(name: str, value: Any, like: Any = np.float32) -> np.ndarray:
  """Takes floats of any shape; returns a numpy array, or a memmap as it is.

  They keep their dtype; numbers in lists, which have none, become `like`.
  """
  array = values.as_array(name, value)
  is_list = isinstance(value, list | tuple)
  is_list |= str(getattr(value, 'dtype', '')) == 'object'
  if is_list and array.dtype.kind in 'iuf':
    with np.errstate(over='ignore'):  # The caller refuses infinity by its row.
      array = array.astype(like)
  if not values.is_a(array, 'floats') or array.dtype.itemsize > 8:
    raise ValueError(f'{name} of {array.dtype}: must be floating')
  values.check_byte_order(name, array)
  return array if isinstance(array, np.memmap) else np.asarray(array)


def as_int64(name: str, value: Any) -> np.ndarray:
  """Takes integers of any shape; returns them as int64 in numpy.

  Nothing then overflows in a narrow type of the caller's. Floats are refused,
  since those of few bits make different labels equal; so are bools.
  """
  array = np.asarray(values.as_array(name, value))
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
