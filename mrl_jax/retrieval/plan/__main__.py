"""Finds the width that fits a budget of bytes, and the cheapest search.

    python -m mrl_jax.retrieval.plan --rows=50e6 --budget=100GB
    python -m mrl_jax.retrieval.plan --rows=1e9 --nodes=8 --memory=64GB

prints for each number type how many dims fit, and what a query costs. With
--queries and --database, .npy files as for `python -m mrl_jax.retrieval`, it
also measures searches on them, and recommends the cheapest that keeps the share
--recall of the accuracy of the exact search at full width. Costs are for --rows
rows; accuracies are those of the given database, and fall as it grows. The
second says which codes of which width fit a node, and prints the settings of a
Qdrant collection and of its query. A GB is 1e9 bytes, a GiB 2**30.
"""

import argparse
from collections.abc import Sequence
import pathlib
from typing import Any

import tqdm

from mrl_jax import retrieval
from mrl_jax import terminal
from mrl_jax.retrieval import compare
from mrl_jax.retrieval import row_files
from mrl_jax.retrieval.plan import budget
from mrl_jax.retrieval.plan import cluster
from mrl_jax.retrieval.plan import pareto
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.terminal.tables import Table
from mrl_jax.workdir import files


def table_of_fits(
  found: list[budget.Fit], shortlist_dim: int, shortlist: int
) -> str:
  header = (
    'numbers', 'dims', 'bytes/row', 'MFLOPs/query', 'MB/query',
    f'MFLOPs from {shortlist_dim}, K {shortlist}', 'MB',
  )  # fmt: skip
  rows = [
    (
      fit.kind, f'{fit.dims:,}', f'{fit.row_bytes:,}', f'{fit.mflops:,.1f}',
      f'{fit.query_bytes / 1e6:,.1f}', f'{fit.adaptive_mflops:,.1f}',
      f'{fit.adaptive_query_bytes / 1e6:,.1f}',
    )
    for fit in found
  ]  # fmt: skip
  return terminal.table(Table(header, rows))


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Measures all searches: the record of points, front and recommended one."""
  query_QD, database_MD, dims, labels = row_files.load_pair(args)
  M, D = database_MD.shape
  # The others are compared with the full width.
  dims = tuple(dict.fromkeys((*dims, D)))
  k = min(10, M)
  shortlists = args.shortlists or [
    n for n in (25, 50, 100, 200, 500) if k < n <= M
  ] or [k]  # fmt: skip
  for shortlist in shortlists:
    if not k <= shortlist <= M:
      raise ValueError(
        f'shortlist {shortlist}: must be in [{k}, {M}], k and the rows'
      )
  database = retrieval.prepare(database_MD, dims)
  judge = compare.make_judge(query_QD, database, k, **labels)
  candidates = pareto.candidates(
    pareto.Grid(database, dims, k, args.rows, shortlists)
  )
  points = []
  with tqdm.tqdm(candidates, unit='search', disable=None, leave=False) as bar:
    for candidate in bar:
      bar.set_description(candidate.name)
      points.append(pareto.measure(candidate, query_QD, judge))
  full = next(point for point in points if point.name == str(D))
  best = pareto.recommend(
    points,
    at_least=args.recall * full.accuracy,
    row_bytes=args.budget / args.rows,
    by=args.cost,
  )
  return {
    'accuracy': {'map': 'mAP@10', 'ndcg': f'nDCG@{k}'}.get(
      judge.accuracy, f'{k}-Recall@{k}'
    ),
    'queries': len(query_QD),
    'database': M,
    'exact': full._asdict(),
    'points': [point._asdict() for point in points],
    'front': [point._asdict() for point in pareto.front(points, args.cost)],
    'recommended': best and best._asdict(),
  }


def table_of_points(measured: dict[str, Any]) -> str:
  """The front, with the recommended point marked, the exact search, what fits.

  Of each number type that is the widest measured prefix that the budget holds.
  """
  best, shown = measured['recommended'], list(measured['front'])
  named = {point['name']: point for point in measured['points']}
  for fit in measured['fits']:
    text = {'float32': '{}'}.get(fit['kind'], f'{fit["kind"]} {{}} alone')
    names = (text.format(dim) for dim in range(fit['dims'], 0, -1))
    shown += [named[name] for name in names if name in named][:1]
  shown += [measured['exact'], *([best] if best else [])]
  shown = [x for i, x in enumerate(shown) if x not in shown[:i]]
  header = (
    '', 'search', f'{measured["accuracy"]} %', 'k-recall %', 'MFLOPs/query',
    'MB/query', 'ms/query', 'bytes/row',
  )  # fmt: skip
  rows = [
    (
      '*' if point == measured['recommended'] else '', point['name'],
      point['accuracy'], point['k_recall'], f'{point["mflops"]:.4g}',
      f'{point["bytes"] / 1e6:.4g}', f'{point["ms"]:.3g}',
      f'{point["row_bytes"]:,.0f}',
    )
    for point in shown
  ]  # fmt: skip
  return terminal.table(Table(header, rows))


def run(args: argparse.Namespace) -> None:
  """Raises ValueError for arguments that do not fit each other or the files."""
  if not 0 < args.recall <= 1:
    raise ValueError(f'--recall={args.recall}: must be in (0, 1]')
  if (args.queries is None) != (args.database is None):
    raise ValueError('--queries, --database: give both or neither')
  width = args.width
  if args.database and width is None:
    width = row_files.load_rows(args.database)[0].shape[1]
  is_cluster = (args.nodes is not None, args.memory is not None)
  if is_cluster[0] != is_cluster[1] or is_cluster[0] == (
    args.budget is not None
  ):
    raise ValueError('--budget, or --nodes and --memory: give one or the other')
  nodes = []
  if args.nodes is not None:
    nodes = cluster.fits(
      args.rows, args.nodes, args.memory, width=width or 1024,
      shortlist=args.shortlist,
    )  # fmt: skip
    args.budget = args.nodes * args.memory
  found = budget.fits(
    args.rows, args.budget, shortlist_dim=args.shortlist_dim,
    shortlist=args.shortlist, width=width,
  )  # fmt: skip
  record = {
    'rows': args.rows,
    'budget': args.budget,
    'fits': [fit._asdict() for fit in found],
  }
  print(f'{args.rows:,} rows in {args.budget / 1e9:,.6g} GB:')
  print(table_of_fits(found, args.shortlist_dim, args.shortlist))
  if args.queries:
    record |= {'recall': args.recall, 'cost': args.cost, **measure(args)}
    print(
      f'\n{record["queries"]:,} queries in {record["database"]:,} rows; MFLOPs '
      f'and MB for {args.rows:,} rows; cheapest by {args.cost}:'
    )
    print(table_of_points(record))
    if any(
      x['accuracy'] > record['exact']['accuracy'] for x in record['front']
    ):
      print(
        f'Where {record["accuracy"]} exceeds that of the exact search, nearer '
        'rows gave way to relevant ones: k-recall says how many were found.'
      )
    if args.rows > record['database']:
      print('Accuracies are of the rows at hand; they fall as rows are added.')
    print(_verdict(record))
  if nodes:
    text, settings = cluster.describe(
      nodes, args.nodes, width or 1024, args.shortlist, record.get('points', [])
    )
    print(text)
    record |= settings
  if args.json:
    files.write_json(pathlib.Path(args.json), record)


def _verdict(record) -> str:
  best, full = record['recommended'], record['exact']
  within = f'{record["recall"]:.4g} of the {full["accuracy"]:.2f} % of exact'
  if best is None:
    return (
      f'nothing recommended: no search measured keeps {within} and fits '
      f'{record["budget"] / 1e9:,.6g} GB'
    )
  times = full[record['cost']] / best[record['cost']]
  return (
    f'recommended: {best["name"]} ({record["accuracy"]} {best["accuracy"]:.2f} '
    f'%, within {within}), {times:.3g}x cheaper'
  )


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.retrieval.plan', description=__doc__.split('\n')[0]
  )
  row_files.add_arguments(parser, required=False)
  add = parser.add_argument
  add('--rows', type=budget.parse_count, required=True, help='such as 50e6')
  add('--budget', type=budget.parse_bytes, help='such as 100GB, 93GiB')
  add('--nodes', type=int, help='machines that share the rows')
  add('--memory', type=budget.parse_bytes, help='that of each, such as 64GB')
  add('--width', type=int, help="the embeddings': a bound of the dims")
  add('--shortlist_dim', type=int, default=16, help='dims scanned first')
  add('--shortlist', type=int, default=200, help='rows reranked')
  add('--shortlists', type=arguments.wholes, help='25,100,… to measure')
  add(
    '--recall',
    type=float,
    default=0.99,
    help='share of the exact accuracy that must be kept',
  )
  add(
    '--cost',
    choices=('mflops', 'bytes', 'ms'),
    default='mflops',
    help='what is to be cheap; ms are those of this machine and database',
  )
  add('--json', type=arguments.path, help='file to write')
  args = parser.parse_args(argv)
  with ending.in_one_line():
    run(args)


if __name__ == '__main__':
  main()
