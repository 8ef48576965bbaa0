"""Selects the parameters that train, by patterns that name model parts."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

Arrays = Mapping[str, Any]


def parse(patterns: Sequence[str]) -> tuple[str, ...]:
  """Splits entries at commas into patterns; ValueError for an empty one."""
  if isinstance(patterns, str):
    patterns = (patterns,)
  for entry in patterns:
    if not isinstance(entry, str) or not all(map(str.strip, entry.split(','))):
      raise ValueError(
        f'trainable {entry!r}: must be patterns such as layer4.2, head'
      )
  return tuple(part.strip() for entry in patterns for part in entry.split(','))


def matches(path: Sequence[Any], patterns: Sequence[str]) -> bool:
  """Whether the parameter at `path`, a tuple of names, trains.

  A pattern is the dotted path of a module or parameter, such as
  `encoder.layer4.2.conv3`, and matches all that lies below it; `encoder.` may
  be left out. Without patterns every parameter trains.
  """
  names = '.'.join(map(str, path)) + '.'
  inner = names.removeprefix('encoder.')
  return not patterns or any(
    full.startswith(f'{pattern}.')
    for full in (names, inner)
    for pattern in patterns
  )


def split(params: Arrays, patterns: Sequence[str]) -> tuple[Arrays, Arrays]:
  """Splits parameters into trainable and frozen ones, as nested dicts.

  Raises ValueError, naming them, for patterns that match nothing.
  """
  patterns = parse(patterns)
  flat = traverse_util.flatten_dict(params)
  unmatched = [
    pattern
    for pattern in patterns
    if not any(matches(path, (pattern,)) for path in flat)
  ]
  if unmatched:
    there = dict.fromkeys('.'.join(map(str, path[:2])) for path in flat)
    raise ValueError(
      f'trainable {", ".join(unmatched)}: matches no parameter; there are '
      + ', '.join(there)
    )
  trained = {path: x for path, x in flat.items() if matches(path, patterns)}
  frozen = {path: x for path, x in flat.items() if path not in trained}
  return (
    traverse_util.unflatten_dict(trained),
    traverse_util.unflatten_dict(frozen),
  )


def merge(trained: Arrays, frozen: Arrays) -> dict[str, Any]:
  """Merges the two results of `split`."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
  )
