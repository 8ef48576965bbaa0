"""Lists on a command line: one rule for every field that holds one.

Elements are parted by commas: `8,16`, `logits,labels`, `folder:/path`. One that
reads as a number is a number, any other is text. Quotes keep what is between
them as text, with its commas: `"folder:/a,b",imagenet_a`. Brackets around the
whole list, and a comma after the last element, may be there or not; nothing at
all, or `()`, is the empty list.
"""

import ast
import re
from typing import Any

# Quoted text up to a comma or the end; else all up to the next comma.
_ELEMENT = re.compile(
  r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]*?)\s*(?:,|$)"""
)


def parse(text: str) -> tuple[int | float | str, ...]:
  """The elements of a list as it is typed.

  Raises ValueError for an element that is empty, unless it is quoted.
  """
  inner = text.strip()
  if inner[:1] + inner[-1:] in ('()', '[]'):
    inner = inner[1:-1].strip()
  elements, start = [], 0
  while start < len(inner):
    match = _ELEMENT.match(inner, start)
    if not match[1]:
      raise ValueError(
        f'{text!r}: must have an element before and after each comma'
      )
    elements.append(_element(match[1]))
    start = match.end()
  return tuple(elements)


def wholes(text: str) -> tuple[int, ...]:
  """A list of whole numbers, not empty; ValueError for anything else."""
  values = parse(text)
  if not values or not all(isinstance(value, int) for value in values):
    raise ValueError(f'{text!r}: must be whole numbers, such as 8,16,32')
  return values


def _element(text: str) -> Any:
  if text[0] in '\'"' and text[-1:] == text[0] and len(text) > 1:
    try:
      return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
      return text[1:-1]
  # Python's own numbers, but for those with _ in them: 1_000 is a name, too.
  for kind in (int, float):
    if re.fullmatch(r'[-+.\deE]+', text):
      try:
        return kind(text)
      except ValueError:
        continue
  return text
