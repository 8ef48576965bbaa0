"""The content of tables, for the terminal and for the report."""

from collections.abc import Mapping, Sequence
import csv as csv_lib
import io
from typing import NamedTuple

# A formula begins with one of these, in full width or after a line's end, too.
_FORMULA = tuple('=+-@\t\r\n＝＋－＠')
# Columns of searches measured by labels, and by graded relevance.
_LABELLED = {
  'top1': 'top-1 %', 'map10': 'mAP@10 %', 'p10': 'P@10 %',
  'krecall10': '10-recall@10 %',
}  # fmt: skip
_GRADED = {
  'ndcg10': 'nDCG@10 %', 'mrr10': 'MRR@10 %', 'rprec': 'R-precision %',
  'success10': 'success@10 %', 'r100': 'recall@100 %',
  'krecall10': '10-recall@10 %',
}  # fmt: skip


class Table(NamedTuple):
  header: tuple[str, ...]
  rows: list[tuple]


def accuracy(values: Mapping[str, float], dims: Sequence[int]) -> Table:
  """The main `val/…@<width>` metrics, a row for each width."""
  names = [f'val/{name}' for name in ('loss', 'top1', 'top5', 'knn1')]
  return _columns(values, names, dims)


def retrieval(methods: Mapping[str, Mapping]) -> Table:
  """A row for each method of a retrieval.json.

  Searches measured by qrels show nDCG@10, MRR@10, R-precision, success@10 and
  recall@100, those by labels top-1, mAP@10 and P@10; both the 10-recall@10,
  which alone tells whether the true neighbours were found. Others show
  k-recalls.
  """
  there = {name for x in methods.values() for name in x['metrics']}
  names = {f'krecall{k}': f'{k}-recall@{k} %' for k in (1, 10, 100)}
  if 'top1' in there:
    names = _LABELLED
  elif 'rprec' in there:
    names = _GRADED
  names = {x: title for x, title in names.items() if x in there}
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


def widths(
  values: Mapping[str, float], dims: Sequence[int], prefix: str = ''
) -> Table:
  """All metrics `<prefix><metric>@<width>`, a row for each width."""
  names = dict.fromkeys(name.partition('@')[0] for name in values)
  return _columns(values, [x for x in names if x.startswith(prefix)], dims)


def _columns(values, names, dims) -> Table:
  rows = [
    (dim, *(values.get(f'{name}@{dim}') for name in names)) for dim in dims
  ]
  titles = [title(name.rpartition('/')[2]) for name in names]
  return Table(('width', *titles), rows)


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
  escaped = lambda row: [cell.replace('|', '\\|') for cell in row]
  return ''.join(f'| {" | ".join(escaped(row))} |\n' for row in lines)


def csv(content: Table) -> str:
  """Formats a table as CSV, with numbers as they are and nothing for None.

  Spreadsheets run text that begins with certain characters as a formula. An
  apostrophe before it keeps it text, as OWASP advises under "CSV Injection":
  class names may come from anyone.
  """
  lines = []
  for row in (content.header, *content.rows):
    buffer = io.StringIO()
    # With this terminator, cells with either of its characters are quoted.
    csv_lib.writer(buffer, lineterminator='\r\n').writerow(map(_as_text, row))
    lines.append(buffer.getvalue().removesuffix('\r\n') + '\n')
  return ''.join(lines)


def _as_text(cell: object) -> object:
  is_formula = isinstance(cell, str) and cell.startswith(_FORMULA)
  return f"'{cell}" if is_formula else cell


def show(cell: object) -> str:
  """Formats a cell: floats to two decimals, None as a dash."""
  if cell is None:
    return '–'
  return f'{cell:.2f}' if isinstance(cell, float) else str(cell)
