"""Nested embeddings in PostgreSQL: a pgvector column for each width.

Rows are of unit length at every width, so that the inner product `<#>` is the
cosine, and 0 for a prefix without direction.
"""

from collections.abc import Iterable, Sequence
import re

import numpy as np

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval import prefixes

# The start of a binary COPY, and its end.
_START, _END = b'PGCOPY\n\xff\r\n\0' + bytes(8), b'\xff\xff'
# The most that `hnsw.ef_search` may be, and its default.
_MOST_EFFORT, _EFFORT = 1000, 40


def fill(
  url: str,
  table: str,
  dims: Sequence[int],
  blocks: Iterable[tuple[int, Sequence[np.ndarray]]],
  label_N: np.ndarray | None = None,
) -> None:
  """Creates a table, and an HNSW index of the first width.

  Columns are id, label and embedding_<width>: halfvec, where the server has it,
  and vector for the last. `blocks` yields the number of the first row, and the
  prefixes [B, dim]. The table appears when it is whole. Raises ValueError if
  there is one of that name, or for what the server refuses.
  """
  import psycopg

  check_table(table)
  try:
    # One transaction: all of it, or nothing.
    with psycopg.connect(url) as link:
      link.execute('CREATE EXTENSION IF NOT EXISTS vector')
      if link.execute('SELECT to_regclass(%s)', [table]).fetchone()[0]:
        raise ValueError(f'table {table!r} is there already: name another')
      half = link.execute("SELECT to_regtype('halfvec')").fetchone()[0]
      kinds = [*['halfvec' if half else 'vector'] * (len(dims) - 1), 'vector']
      columns = ['id bigint PRIMARY KEY', 'label bigint'] + [
        f'embedding_{dim} {kind}({dim}) NOT NULL'
        for dim, kind in zip(dims, kinds, strict=True)
      ]
      link.execute(f'CREATE TABLE {table} ({", ".join(columns)})')
      with link.cursor().copy(
        f'COPY {table} FROM STDIN (FORMAT binary)'
      ) as copy:
        copy.write(_START)
        for first, vectors in blocks:
          copy.write(_packed(first, vectors, kinds, label_N))
        copy.write(_END)
      link.execute(
        f'CREATE INDEX ON {table} USING hnsw '
        f'(embedding_{dims[0]} {kinds[0]}_ip_ops)'
      )
      link.execute(f'ANALYZE {table}')
  except psycopg.Error as error:
    raise ValueError(f'PostgreSQL: {" ".join(str(error).split())}') from error


def check_table(table: str) -> None:
  """Raises ValueError for a name that SQL would need quotes for."""
  if not re.fullmatch(r'[a-z_][a-z0-9_]{0,50}', table):
    raise ValueError(f'table {table!r}: must be of a to z, 0 to 9 and _')


def _packed(first, vectors, kinds, label_N) -> bytes:
  """Rows as a binary COPY has them: each field after its length in bytes."""
  count = len(vectors[0])
  fields = [('fields', '>i2'), ('id_size', '>i4'), ('id', '>i8')]
  fields.append(('label_size', '>i4'))
  if label_N is not None:
    fields.append(('label', '>i8'))
  for dim, kind in zip((x.shape[1] for x in vectors), kinds, strict=True):
    number = '>f2' if kind == 'halfvec' else '>f4'
    # A vector is its dims, two bytes of 0, and its numbers.
    fields += [(f'size_{dim}', '>i4'), (f'dims_{dim}', '>i2')]
    fields += [(f'zero_{dim}', '>i2'), (f'x_{dim}', number, (dim,))]
  rows = np.zeros(count, np.dtype(fields))
  rows['fields'], rows['id_size'], rows['label_size'] = 2 + len(vectors), 8, -1
  rows['id'] = np.arange(first, first + count)
  if label_N is not None:
    rows['label_size'], rows['label'] = 8, label_N[first : first + count]
  for x_Bd in vectors:
    dim = x_Bd.shape[1]
    rows[f'size_{dim}'] = 4 + rows.dtype[f'x_{dim}'].itemsize
    rows[f'dims_{dim}'], rows[f'x_{dim}'] = dim, x_Bd
  return rows.tobytes()


def funnel_sql(
  dims: Sequence[int], shortlists: Sequence[int], table: str = 'embeddings'
) -> str:
  """The query that does what `retrieval.funnel` does, walking the index.

  It has a parameter `%(q<width>)s` for each width, which `parameters` makes,
  and gives id, label and score. Raises ValueError as `funnel` does, or for a
  first shortlist beyond 1,000, the most that an HNSW index finds.
  """
  check_table(table)
  dims = nesting.validate(dims, 2**31 - 1)
  shortlists = inputs.check_shortlists(shortlists, dims)
  if shortlists[0] > _MOST_EFFORT:
    raise ValueError(f'shortlist {shortlists[0]}: must be at most 1000')
  step, kept = table, [f'embedding_{dim}' for dim in dims]
  for i, (dim, count) in enumerate(zip(dims, shortlists, strict=True)):
    product = f'{kept[i]} <#> %(q{dim})s'
    last = i == len(dims) - 1
    columns = [f'-({product}) AS score'] if last else kept[i + 1 :]
    step = (
      f'SELECT id, label, {", ".join(columns)} FROM '
      f'{f"({step}) AS of_{dims[i - 1]}" if i else step} '
      f'ORDER BY {product}{", id" if i else ""} LIMIT {count}'
    )
  return step


def settings(shortlist: int) -> str:
  """The setting of a connection with which the index finds a shortlist."""
  return f'SET hnsw.ef_search = {max(shortlist, _EFFORT)}'


def parameters(query_D: np.ndarray, dims: Sequence[int]) -> dict[str, str]:
  """The parameters of `funnel_sql` for a query [D], as pgvector writes them."""
  query_1D = checks.as_floats('query', query_D)[None]
  if query_1D.ndim != 2:
    raise ValueError(f'query of shape {query_1D.shape[1:]}: must be [D]')
  dims = nesting.validate(dims, query_1D.shape[1])
  text = lambda dim: ','.join(
    map(repr, prefixes.unit(query_1D, dim)[0].tolist())
  )
  return {f'q{dim}': f'[{text(dim)}]' for dim in dims}


def told(table: str, dims: Sequence[int], rows: int) -> str:
  """Where the rows are, with the query of a funnel from 200 rows to 10."""
  kept = [min(rows, 200), *[min(rows, 10)] * (len(dims) - 1)]
  sql = funnel_sql(dims, kept, table)
  return f'the table {table}, searched by:\n{settings(kept[0])};\n{sql};'
