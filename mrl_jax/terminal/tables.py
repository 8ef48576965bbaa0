"""The content of tables, for the terminal and for the report."""

from collections.abc import Mapping, Sequence
import csv as csv_lib
import io
from typing import NamedTuple

# A formula begins with one of these, in full width or after a line's end, too.
_FORMULA = tuple('=+-@\t\r\n＝＋－＠')


class Table(NamedTuple):
  header: tuple[str, ...]
  rows: list[tuple]


def accuracy(values: Mapping[str, float], dims: Sequence[int]) -> Table:
  """The `val/…@<width>` metrics, a row for each width."""
  return _columns(values, 'val', ('loss', 'top1', 'top5', 'knn1'), dims)


def flipped(values: Mapping[str, float], dims: Sequence[int]) -> Table:
  """The `val_flip/…@<width>` metrics, a row for each width."""
  return _columns(values, 'val_flip', ('loss', 'top1', 'top5'), dims)


def _columns(values, prefix, names, dims) -> Table:
  rows = [
    (dim, *(values.get(f'{prefix}/{name}@{dim}') for name in names))
    for dim in dims
  ]
  return Table(('width', *map(title, names)), rows)


def retrieval(methods: Mapping[str, Mapping]) -> Table:
  """A row for each method of a retrieval.json.

  Searches measured by labels show top-1, mAP@10 and P@10, others k-recalls.
  """
  names = {
    'top1': 'top-1 %', 'map10': 'mAP@10 %', 'p10': 'P@10 %'
  }  # fmt: skip
  if not any('top1' in method['metrics'] for method in methods.values()):
    names = {f'krecall{k}': f'{k}-recall@{k} %' for k in (1, 10, 100)}
  rows = [
    (
      name.replace('-', ' → '),
      *(method['metrics'].get(metric) for metric in names),
      f'{method["mflops_per_query"]:.4g}',
      f'{method["seconds"]:.4f}',
    )
    for name, method in methods.items()
  ]
  return Table(('widths', *names.values(), 'MFLOPs/query', 'seconds'), rows)


def widths(values: Mapping[str, float], dims: Sequence[int]) -> Table:
  """All metrics named `<metric>@<width>`, a row for each width."""
  names = dict.fromkeys(name.partition('@')[0] for name in values)
  rows = [
    (dim, *(values.get(f'{name}@{dim}') for name in names)) for dim in dims
  ]
  return Table(('width', *map(title, names)), rows)


def title(metric: str) -> str:
  """A column's title: `top1` is `top-1 %`, `shot5way10` `5-shot 10-way %`."""
  for prefix, format_ in (('top', 'top-{} %'), ('knn', '{}-NN %')):
    if (rest := metric.removeprefix(prefix)).isdecimal():
      return format_.format(rest)
  shots, _, ways = metric.removeprefix('shot').partition('way')
  if shots.isdecimal():
    return f'{shots}-shot {ways}-way %'
  return metric


def markdown(content: Table) -> str:
  """Formats a table as Markdown, with columns but the first aligned right."""
  rule = ['---', *['---:'] * (len(content.header) - 1)]
  lines = [content.header, rule, *(map(show, row) for row in content.rows)]
  return ''.join(f'| {" | ".join(map(_escaped, row))} |\n' for row in lines)


def _escaped(cell: str) -> str:
  return cell.replace('|', '\\|')


def csv(content: Table) -> str:
  """Formats a table as CSV, with numbers as they are and nothing for None.

  Spreadsheets run text that begins with certain characters as a formula. An
  apostrophe before it keeps it text, as OWASP advises under "CSV Injection":
  class names may come from anyone.
  """
  return ''.join(map(_csv_row, (content.header, *content.rows)))


def _csv_row(row: tuple) -> str:
  buffer = io.StringIO()
  # With this terminator, cells with either of its characters are quoted.
  csv_lib.writer(buffer, lineterminator='\r\n').writerow(map(_as_text, row))
  return buffer.getvalue().removesuffix('\r\n') + '\n'


def _as_text(cell: object) -> object:
  is_formula = isinstance(cell, str) and cell.startswith(_FORMULA)
  return f"'{cell}" if is_formula else cell


def show(cell: object) -> str:
  """Formats a cell: floats to two decimals, None as a dash."""
  if cell is None:
    return '–'
  return f'{cell:.2f}' if isinstance(cell, float) else str(cell)
