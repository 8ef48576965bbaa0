"""Embeddings and labels in .npy files, whoever wrote them."""

import argparse
import os
import pathlib
from typing import Any

import numpy as np

from mrl_jax import nesting
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import qrels as qrels_lib
from mrl_jax.terminal import arguments
from mrl_jax.workdir import checksums
from mrl_jax.workdir import npy

# Advice for a file that differs from its manifest.
_REMEDY = 'run --mode=embed again, or copy it and its manifest again'


def load_rows(path: str | os.PathLike) -> tuple[np.memmap, dict[str, Any]]:
  """Opens float embeddings [N, D] as a memmap, and reads their manifest.

  The manifest of `X.npy` and of `X-x.npy` is `X.json`; an empty one is returned
  if there is none. Raises ValueError if the file holds no such array, or
  disagrees with the count, the dim or the checksum of the manifest.
  """
  path = pathlib.Path(path)
  manifest_path = path.with_name(f'{path.stem.removesuffix("-x")}.json')
  manifest = {}
  if manifest_path.is_file():
    sealed = checksums.read(manifest_path, _REMEDY)
    sealed.check(path.name)
    manifest = sealed.record
  row_ND = _load(path, mmap=True)
  if row_ND.ndim != 2 or not row_ND.size or row_ND.dtype.kind != 'f':
    raise ValueError(
      f'{path} holds {row_ND.dtype} of shape {row_ND.shape}: must be floats '
      '[N, D]'
    )
  count, dim = row_ND.shape
  told = manifest.get('count', count), manifest.get('dim', dim)
  if told != row_ND.shape:
    raise ValueError(
      f'{manifest_path} says {told[0]} rows of width {told[1]}, {path} has '
      f'{count} of width {dim}'
    )
  return row_ND, manifest


def load_labels(path: str | os.PathLike, count: int) -> np.ndarray:
  """Reads integer labels, int64 [count]; raises ValueError for anything else.

  Those of `X-y.npy` are compared with the checksum in `X.json`.
  """
  path = pathlib.Path(path)
  manifest_path = path.with_name(f'{path.stem.removesuffix("-y")}.json')
  checksums.check_beside(path, manifest_path, _REMEDY)
  return inputs.labels(_load(path), str(path), count)


def add_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
  """Adds the flags that name the arrays of a command."""
  flags = {
    'queries': '.npy of floats [Q, D]',
    'database': '.npy of floats [M, D]',
    'query_labels': '.npy of integers [Q]: measured by mAP, not by recall',
    'database_labels': '.npy of integers [M]',
    'qrels': 'BEIR .tsv of query-id, corpus-id, grade: measured by nDCG',
    'query_ids': "BEIR's queries.jsonl, for qrels; default: row numbers",
    'database_ids': "BEIR's corpus.jsonl or .jsonl.gz",
  }
  for name, text in flags.items():
    needed = required and name in ('queries', 'database')
    parser.add_argument(
      f'--{name}', type=arguments.path, required=needed, help=text
    )
  parser.add_argument(
    '--dims', type=arguments.wholes,
    help='8,16,… to measure; default: the nesting dims, or doubled widths',
  )  # fmt: skip


def load_pair(
  args: argparse.Namespace,
) -> tuple[np.ndarray, np.memmap, tuple[int, ...], dict[str, Any]]:
  """Queries [Q, D], rows [M, D], dims, and labels or qrels that flags name.

  The last are keyword arguments of `compare.make_judge`. Raises ValueError
  for arrays of different widths or dtypes, or what does not fit them.
  """
  database_MD, manifest = load_rows(args.database)
  query_QD, _ = load_rows(args.queries)
  query, database = (
    f'{x.dtype} of width {x.shape[1]}' for x in (query_QD, database_MD)
  )
  if query != database:
    raise ValueError(f'queries in {query}, database in {database}: must agree')
  M, D = database_MD.shape
  dims = nesting.validate(args.dims or default_dims(D, manifest), D)
  labels = {
    name: load_labels(path, count)
    for name, path, count in (
      ('query_label_Q', args.query_labels, len(query_QD)),
      ('database_label_M', args.database_labels, M),
    )
    if path
  }
  sides = (args.query_ids, len(query_QD)), (args.database_ids, M)
  if args.qrels:
    ids = (
      qrels_lib.read_ids(path, count) if path else list(map(str, range(count)))
      for path, count in sides
    )
    labels['qrels'] = qrels_lib.read(args.qrels, *ids)
  elif args.query_ids or args.database_ids:
    raise ValueError('--query_ids, --database_ids: give --qrels with them')
  return np.array(query_QD), database_MD, dims, labels


def own_rows(
  query_QD: np.ndarray, database_MD: np.ndarray, nearest_Q: np.ndarray
) -> np.ndarray:
  """The database row that is equal to each query, int64 [Q]; -1 for none.

  Looks at row i for query i, then at its nearest row.
  """
  Q, M = len(query_QD), len(database_MD)
  own_Q = np.full(Q, -1)
  for rows_Q in (nearest_Q, np.arange(Q).clip(max=M - 1)):
    same_Q = (database_MD[rows_Q] == query_QD).all(1)
    own_Q[same_Q] = rows_Q[same_Q]
  return own_Q


def default_dims(width: int, manifest: dict[str, Any]) -> tuple[int, ...]:
  """The nesting dims of the manifest, or else 8, 16, 32, … and the width."""
  if 'nesting_dims' in manifest:
    return nesting.validate(tuple(manifest['nesting_dims']), width)
  powers = (2**n for n in range(3, width.bit_length()))
  return (*(dim for dim in powers if dim < width), width)


def _load(path, **options) -> np.ndarray:
  try:
    return npy.load(path, **options)
  except (ValueError, OSError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from None
