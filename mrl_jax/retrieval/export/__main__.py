"""Writes embeddings for other software: Qdrant, PostgreSQL, Faiss or Parquet.

    python -m mrl_jax.retrieval.export --to=qdrant --embeddings=X.npy \\
      --dims=8,64,2048 --out=DIR      # Or --url=http://host:6333.

Each width becomes a vector of its own, sliced and then normalised. --out is a
folder, which is written whole or not at all:

  qdrant    the embedded storage, opened by `QdrantClient(path=DIR)`, or with
            --url a server's collection; vectors are named after their widths,
            and `qdrant.funnel_query` makes the query of a funnel
  pgvector  a table of the server at --url=postgresql://…, with an HNSW index of
            the first width; `pgvector.funnel_sql` makes the query of a funnel
  faiss     <width>.faiss, an IndexFlatIP
  parquet   rows.parquet: id, label, and a column embedding_<width> for each

Its export.json has a checksum of each file, which
`python -m mrl_jax.workdir.checksums DIR` compares with the files. Qdrant
changes its files when it opens them.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import importlib.util
import pathlib
from typing import Literal

import numpy as np
import tqdm

from mrl_jax import nesting
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval import row_files
from mrl_jax.retrieval.export import pgvector
from mrl_jax.retrieval.export import qdrant
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files

# Rows in memory at a time, in float32.
_BLOCK_BYTES = 64 << 20


def export(
  row_ND: np.ndarray,
  out: pathlib.Path,
  *,
  to: Literal['qdrant', 'faiss', 'parquet'],
  dims: Sequence[int],
  label_N: np.ndarray | None = None,
  collection: str = 'embeddings',
) -> None:
  """Writes the folder `out`, whole or not at all.

  Args:
    row_ND: float rows; a memmap is read in blocks.
    out: the folder to write; an earlier export in it is replaced.
    to: the software to write for.
    dims: the widths to write.
    label_N: integers, written as payload for Qdrant and as a column for
      Parquet; not for Faiss.
    collection: the name of Qdrant's collection.

  Raises:
    ValueError: dims that do not fit, a row that is all zero or not finite (its
      number is in the message), labels of another length, or a folder that
      holds no export.
  """
  label_N = check(row_ND, dims, label_N)
  if to not in _WRITERS:
    raise ValueError(f'to {to!r}: must be one of {tuple(_WRITERS)}')
  if label_N is not None and to == 'faiss':
    raise ValueError('labels: a Faiss index holds none')
  if out.exists() and not (out / 'export.json').exists():
    raise ValueError(f'{out} exists and is no export: name another folder')
  manifest = {
    'to': to, 'count': len(row_ND), 'dim': row_ND.shape[1], 'dims': list(dims),
    'normalised': True,
  }  # fmt: skip
  if to == 'qdrant':
    manifest['collection'] = collection
  with files.replacing_folder(out) as temporary:
    _WRITERS[to](row_ND, temporary, tuple(dims), label_N, collection)
    written = [x for x in temporary.rglob('*') if x.is_file()]
    checksums.write(temporary / 'export.json', manifest, written)


def check(
  row_ND: np.ndarray, dims: Sequence[int], label_N: np.ndarray | None
) -> np.ndarray | None:
  """Labels as int64; raises ValueError for dims or labels that do not fit."""
  nesting.validate(dims, row_ND.shape[1])
  M = len(row_ND)
  return None if label_N is None else inputs.labels(label_N, 'labels', M)


def unit_prefixes(
  row_ND: np.ndarray, dims: Sequence[int], widest: int | None = None
) -> Iterator[tuple[int, list[np.ndarray]]]:
  """Yields (number of the first row, float32 unit prefixes [B, dim] by width).

  A prefix shorter than `inputs.SHORTEST` becomes zeros, and scores 0 as in the
  search. Raises ValueError for a row that is too short at `widest` (None: the
  last of dims), or not finite.
  """
  widest = widest or dims[-1]
  size = max(1, _BLOCK_BYTES // (4 * row_ND.shape[1]))
  for first in tqdm.tqdm(
    range(0, len(row_ND), size), unit='block', disable=None, leave=False
  ):
    row_BD = np.array(row_ND[first : first + size, :widest], np.float32)
    norm_B = np.linalg.norm(row_BD, axis=1)
    bad_B = ~np.isfinite(norm_B) | (norm_B < inputs.SHORTEST)
    if bad_B.any():
      row = int(bad_B.argmax())
      raise ValueError(
        f'row {first + row}: its first {widest} dims have the norm '
        f'{norm_B[row]}, and no direction'
      )
    yield first, [prefixes.unit(row_BD, dim) for dim in dims]


def _to_qdrant(row_ND, folder, dims, label_N, collection) -> None:
  from qdrant_client import QdrantClient

  with contextlib.closing(QdrantClient(path=str(folder))) as client:
    blocks = unit_prefixes(row_ND, dims)
    qdrant.fill(client, collection, dims, blocks, label_N)


def to_server(
  row_ND: np.ndarray,
  url: str,
  *,
  dims: Sequence[int],
  label_N: np.ndarray | None = None,
  collection: str = 'embeddings',
) -> None:
  """Fills a collection of a Qdrant server, which appears once it is whole.

  Raises ValueError as `export` does, or if the server has such a collection or
  does not answer.
  """
  from qdrant_client import QdrantClient
  from qdrant_client.http import exceptions

  label_N = check(row_ND, dims, label_N)
  # The check would run in a thread of its own, and warn from there.
  client = QdrantClient(url=url, check_compatibility=False)
  try:
    with (
      contextlib.closing(client),
      qdrant.publishing(client, collection) as hidden,
    ):
      blocks = unit_prefixes(row_ND, dims)
      qdrant.fill(client, hidden, dims, blocks, label_N)
  except exceptions.ApiException as error:
    raise ValueError(f'{url}: {error}') from error


def _to_faiss(row_ND, folder, dims, *_) -> None:
  import faiss

  # One width at a time, since Faiss needs the whole index in memory.
  for dim in dims:
    index = faiss.IndexFlatIP(dim)
    for _, (prefix_Bd,) in unit_prefixes(row_ND, (dim,), dims[-1]):
      index.add(prefix_Bd)
    faiss.write_index(index, str(folder / f'{dim}.faiss'))


def _to_parquet(row_ND, folder, dims, label_N, _) -> None:
  import pyarrow
  from pyarrow import parquet

  fields = [('id', pyarrow.int64())]
  if label_N is not None:
    fields.append(('label', pyarrow.int64()))
  for dim in dims:
    vector = pyarrow.list_(pyarrow.float32(), dim)
    fields.append((f'embedding_{dim}', vector))
  schema = pyarrow.schema(fields)
  with parquet.ParquetWriter(folder / 'rows.parquet', schema) as writer:
    for first, vectors in unit_prefixes(row_ND, dims):
      end = first + len(vectors[0])
      columns = [np.arange(first, end)]
      if label_N is not None:
        columns.append(label_N[first:end])
      columns += [
        pyarrow.FixedSizeListArray.from_arrays(prefix_Bd.ravel(), dim)
        for dim, prefix_Bd in zip(dims, vectors, strict=True)
      ]
      writer.write_table(pyarrow.table(columns, schema=schema))


_WRITERS = {'qdrant': _to_qdrant, 'faiss': _to_faiss, 'parquet': _to_parquet}

_FLAGS = {'qdrant': 'out, --url', 'pgvector': 'url'}
# The module that each needs, and the name of its package.
_PACKAGES = {
  'qdrant': ('qdrant_client', 'qdrant-client'),
  'faiss': ('faiss', 'faiss-cpu'),
  'parquet': ('pyarrow', 'pyarrow'),
  'pgvector': ('psycopg', '"psycopg[binary]"'),
}


def run(args: argparse.Namespace) -> None:
  if (args.out is None) == (args.url is None):
    raise ValueError('--out, --url: give one of them')
  module, package = _PACKAGES[args.to]
  if importlib.util.find_spec(module) is None:
    raise ValueError(f'--to={args.to}: first pip install {package}')
  flag, taken = ('url' if args.url else 'out'), _FLAGS.get(args.to, 'out')
  if flag not in taken:
    raise ValueError(f'--{flag}: --to={args.to} takes --{taken}')
  row_ND, manifest = row_files.load_rows(args.embeddings)
  dims = args.dims or row_files.default_dims(row_ND.shape[1], manifest)
  label_N = args.labels and row_files.load_labels(args.labels, len(row_ND))
  kwargs = {'dims': dims, 'label_N': label_N, 'collection': args.collection}
  where = args.out or args.url
  if args.to == 'pgvector':
    check(row_ND, dims, label_N)
    blocks = unit_prefixes(row_ND, dims)
    pgvector.fill(args.url, args.collection, dims, blocks, label_N)
    # The URL may have a password.
    where = pgvector.told(args.collection, dims, len(row_ND))
  elif args.url:
    to_server(row_ND, args.url, **kwargs)
  else:
    export(row_ND, pathlib.Path(args.out), to=args.to, **kwargs)
  print(
    f'{len(row_ND):,} rows at widths {", ".join(map(str, dims))} in {where}'
  )


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.retrieval.export',
    description=__doc__.split('\n')[0],
  )
  add = parser.add_argument
  add('--to', required=True, choices=tuple(_PACKAGES))
  path = arguments.path
  add('--embeddings', type=path, required=True, help='.npy of floats [N, D]')
  add('--labels', type=path, help='.npy of integers [N]')
  add('--dims', type=arguments.wholes, help='8,64,…; default: as in the search')
  add('--out', type=path, help='folder to write')
  add('--url', help='that of a Qdrant or PostgreSQL server')
  add('--collection', default='embeddings', help='or table: its name')
  args = parser.parse_args(argv)
  with ending.in_one_line():
    run(args)


if __name__ == '__main__':
  main()
