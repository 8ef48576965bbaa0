"""Compares exact, adaptive and funnel search over any embeddings.

    python -m mrl_jax.retrieval --queries=X.npy --database=Y.npy

Both files hold floats [N, D] of one width and dtype; nothing else is needed.
The table shows the share of the neighbours at full width that was found; with
labels of both the paper's metrics, too; with --qrels nDCG, MRR, R-precision,
success and recall as trec_eval has them. Queries that are rows of the
database find themselves, unless --leave_one_out leaves out the own row of each.
Writes retrieval.json and, for each search, <widths>.npz with ids and scores.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

import numpy as np
import tqdm

from mrl_jax import retrieval
from mrl_jax import terminal
from mrl_jax.retrieval import compare
from mrl_jax.retrieval import row_files
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.terminal import tables
from mrl_jax.workdir import checksums


def run(args: argparse.Namespace) -> None:
  """Raises ValueError for arrays, labels, dims or counts that do not fit."""
  query_QD, database_MD, dims, labels = row_files.load_pair(args)
  M, D = database_MD.shape
  most = M - 1 if args.leave_one_out else M
  if not 1 <= args.k <= args.shortlist <= most:
    raise ValueError(
      f'--k={args.k} --shortlist={args.shortlist}: must be '
      f'1 <= k <= shortlist <= {most}, the rows of the database'
    )
  methods = compare.plan(
    dims, dict.fromkeys((*dims, D)), k=args.k, shortlist=args.shortlist
  )
  database = retrieval.prepare(database_MD, dims)
  nearest_Q = retrieval.search(query_QD, database, 1).ids_QK[:, 0]
  own_Q = row_files.own_rows(query_QD, database_MD, nearest_Q)
  check_own_rows(args, own_Q)
  judge = compare.make_judge(
    query_QD, database, args.k, **labels,
    leave_one_out=own_Q if args.leave_one_out else False,
  )  # fmt: skip
  out, results = pathlib.Path(args.out), {}
  for name, neighbors, results[name] in tqdm.tqdm(
    compare.run(query_QD, database, methods, judge),
    total=len(methods), unit='search', disable=None, leave=False,
  ):  # fmt: skip
    compare.write_neighbors(out, name, neighbors)
  record = {
    'queries': len(query_QD),
    'database': M,
    'leave_one_out': args.leave_one_out,
    'methods': results,
  }
  written = [out / f'{name}.npz' for name in results]
  checksums.write(out / 'retrieval.json', record, written)
  print(f'{len(query_QD):,} queries in {M:,} rows of width {D}')
  print(terminal.table(tables.retrieval(results)))
  print(f'ids, scores and retrieval.json are in {out}/')


def check_own_rows(args: argparse.Namespace, own_Q: np.ndarray) -> None:
  """Warns if queries will find themselves as rows of the database.

  Raises ValueError for --leave_one_out if no query is a row.
  """
  num_own = np.count_nonzero(own_Q >= 0)
  if args.leave_one_out and not num_own:
    raise ValueError(
      f'--leave_one_out: no row of {args.queries} is one of {args.database}'
    )
  if num_own and not args.leave_one_out:
    print(
      f'warning: {num_own:,} of {len(own_Q):,} queries are rows of '
      f'{args.database}, and find themselves: --leave_one_out leaves each its '
      'own row out',
      file=sys.stderr,
    )


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.retrieval', description=__doc__.split('\n')[0]
  )
  row_files.add_arguments(parser, required=True)
  add = parser.add_argument
  add('--k', type=int, default=100, help='neighbours per query')
  add('--shortlist', type=int, default=200, help='rows that are reranked')
  add(
    '--leave_one_out',
    action='store_true',
    help='a query that is a row of the database does not find itself',
  )
  add(
    '--out', type=arguments.path, default='retrieval', help='folder to write to'
  )
  args = parser.parse_args(argv)
  with ending.in_one_line():
    run(args)


if __name__ == '__main__':
  main()
