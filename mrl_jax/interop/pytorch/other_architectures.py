"""Names the architectures that cannot be imported, judging by their keys."""

from collections.abc import Iterable
import pathlib
import re

_TABLE = pathlib.Path(__file__).with_suffix('.txt')


def architecture(keys: Iterable[str]) -> str:
  """The architecture that the keys give away, in words; empty if none."""
  keys = [*keys]
  for line in _TABLE.read_text(encoding='utf-8').splitlines():
    if line and not line.startswith('#'):
      pattern, name = line.split(maxsplit=1)
      if any(map(re.compile(pattern).search, keys)):
        return name
  return ''
