"""Results as they come, one JSON object a line, and tables at the end."""

from collections.abc import Mapping
import contextlib
import io
import json
import math
import pathlib
import time
from typing import Any

from benchmarks import tables

Row = dict[str, Any]
# Keys of every row, which the tables leave out.
_COMMON = ('part', 'status', 'at s', 'took s')


class Record:
  """Writes results to a folder as they come."""

  def __init__(self, folder: pathlib.Path):
    self.rows: list[Row] = []
    self.folder = folder
    self._start = time.monotonic()

  def add(self, row: Mapping[str, Any]) -> None:
    """Appends a row to results.jsonl, and prints it on one line.

    A row has `part`, `item` and `status`: ok, failed or skipped.
    """
    row = {
      'part': row['part'],
      'item': row['item'],
      'status': row['status'],
      'at s': time.monotonic() - self._start,
      **row,
    }
    row = {key: _plain(value) for key, value in row.items()}
    self.rows.append(row)
    with open(self.folder / 'results.jsonl', 'a') as file:
      file.write(json.dumps(row) + '\n')
    print(_line(row), flush=True)

  def finish(self, **about: Any) -> None:
    """Prints the tables and the summary, and writes them, too."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
      for part in dict.fromkeys(row['part'] for row in self.rows):
        _show_part(part, [row for row in self.rows if row['part'] == part])
    summary = self._summary(about)
    lines = [f'{key}: {value}' for key, value in summary.items()]
    text.write('\n' + '\n'.join(lines) + '\n')
    print(text.getvalue(), flush=True)
    (self.folder / 'tables.md').write_text(text.getvalue())
    (self.folder / 'summary.json').write_text(json.dumps(summary, indent=1))

  def _summary(self, about: Mapping[str, Any]) -> Row:
    count = lambda status: sum(row['status'] == status for row in self.rows)
    card = next((row for row in self.rows if row['item'] == 'card'), {})
    return {
      **{k: v for k, v in card.items() if k not in (*_COMMON, 'item')},
      **about,
      'seconds': round(time.monotonic() - self._start, 1),
      **{status: count(status) for status in ('ok', 'failed', 'skipped')},
      'faults': [
        f'{row["part"]}, {row["item"]}: {row.get("why", "")}'
        for row in self.rows
        if row['status'] == 'failed'
      ],
    }


def _show_part(part: str, rows: list[Row]) -> None:
  """Prints rows of the same columns as one table."""
  groups: dict[tuple[str, ...], list[Row]] = {}
  for row in rows:
    shown = {key: x for key, x in row.items() if key not in _COMMON}
    if row['status'] != 'ok':
      shown = {'item': row['item'], row['status']: row.get('why', '')}
    groups.setdefault(tuple(shown), []).append(shown)
  for group in groups.values():
    tables.show(part, group)


def _line(row: Row) -> str:
  values = [
    f'{key} {tables.text(value)}'
    for key, value in row.items()
    if key not in (*_COMMON, 'item') and value is not None
  ]
  status = '' if row['status'] == 'ok' else f'{row["status"].upper()}: '
  at = f'{row["at s"]:5.0f} s'
  return f'{at}  {row["part"]}, {row["item"]}: {status}{", ".join(values)}'


def _plain(value: Any) -> Any:
  """The value in JSON's types; None for numbers that are not finite."""
  if isinstance(value, bool | str | None):
    return value
  if isinstance(value, Mapping):
    return {str(key): _plain(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(x) for x in value]
  number = value.item() if hasattr(value, 'item') else value
  if isinstance(number, float):
    return float(f'{number:.6g}') if math.isfinite(number) else None
  return number
