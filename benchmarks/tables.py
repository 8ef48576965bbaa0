"""Rows of figures as Markdown tables."""

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def show(title: str, rows: Sequence[Row]) -> None:
  """Prints rows of the same keys as a Markdown table."""
  cells = [list(rows[0]), *([text(x) for x in row.values()] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    ' | '.join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in cells
  ]
  rule = '|'.join(
    '-' * (width + 2) if i == 0 else '-' * (width + 1) + ':'
    for i, width in enumerate(widths)
  )
  print(f'\n{title}\n')
  print(f'| {lines[0]} |\n|{rule}|')
  for line in lines[1:]:
    print(f'| {line} |')


def text(value: Any) -> str:
  """A value as a cell: floats to three or four digits, None as nothing."""
  if value is None:
    return ''
  if not isinstance(value, float):
    return str(value)
  return f'{value:.2f}' if abs(value) < 100 else f'{value:,.0f}'
