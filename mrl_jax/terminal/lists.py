"""Parses lists on a command line, by one rule for all fields.

Commas separate elements: `8,16`, `logits,labels`, `folder:/path`. An element
that can be read as a number is a number, any other is text. Text in quotes
keeps its commas: `"folder:/a,b",imagenet_a`. Brackets around the list and a
comma after its last element are optional; nothing, or `()`, is the empty list.
"""

import ast
import re
from typing import Any

# Quoted text before a comma or the end, or else everything before a comma.
_ELEMENT = re.compile(
  r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]*?)\s*(?:,|$)"""
)


def parse(text: str) -> tuple[int | float | str, ...]:
  """Parses a list; ValueError for an empty element that is not quoted."""
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


def _element(text: str) -> Any:
  if text[0] in '\'"' and text[-1:] == text[0] and len(text) > 1:
    try:
      return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
      return text[1:-1]
  # Numbers as Python has them, but without _: 1_000 may be a name.
  for kind in (int, float):
    if re.fullmatch(r'[-+.\deE]+', text):
      try:
        return kind(text)
      except ValueError:
        continue
  return text
