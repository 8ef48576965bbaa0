"""Nodes that share the rows: which prefix and code fit one, and the costs.

Each node keeps in memory the codes of one prefix, and a graph over them; the
rows at full width are on its disk. A query goes to all nodes at once: each
finds a shortlist by its codes, and ranks it by the full width.
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax import terminal
from mrl_jax.retrieval import inputs
from mrl_jax.retrieval.plan import budget
from mrl_jax.terminal.tables import Table

CODES = ('float32', 'int8', 'binary')
# Links of a row in HNSW, at most; the lowest level has twice as many. With the
# levels above, and Qdrant's table of ids, this makes so many bytes.
_LINKS = 16
_OTHER_BYTES = 4 * 2 * _LINKS + 28
# The share of the memory that codes and graph may take.
_SHARE = 0.8
# Bytes of a code, and nanoseconds of one core for each, as fitted by
# `python -m benchmarks.scan`; and the error on 1e5 to 1e6 rows. The fewest rows
# fit into a cache.
SCAN = {
  'float32': ((64, 256, 1024), (7.6, 27.25, 85.11)),
  'int8': ((16, 64, 256), (5.1, 13.51, 48.76)),
  'binary': ((8, 32, 128), (1.4, 3.3, 16.39)),
}
ERROR = '9 %, at worst 79 % at 1e5 rows and 17 % at 1e6'


class Node(NamedTuple):
  """What a node holds of one code, and what a query costs it.

  Attributes:
    code, dims: the code, and the width of the prefix.
    rows: the rows of a node.
    row_bytes: bytes of a row in memory: its code, its links and its id.
    memory, disk: bytes of all of its rows; those of full width are on disk.
    query_bytes: bytes of all codes, and of the shortlist's rows.
    ms: the time of one core to read all codes; a graph reads few of them.
  """

  code: str
  dims: int
  rows: int
  row_bytes: int
  memory: float
  disk: float
  query_bytes: float
  ms: float


@checks.takes(
  rows=checks.whole(1, 2**63),
  nodes=checks.whole(),
  memory=checks.number(1),
  width=checks.whole(),
  shortlist=checks.whole(1, 2**63),
)
def fits(
  rows: int, nodes: int, memory: float, *, width: int, shortlist: int = 200
) -> list[Node]:
  """The widest prefix of each code, of 8, 16, … and all dims, that fits a node.

  `memory` is that of a node in bytes, of which a fifth is left free; `width` is
  that of the rows, float32 on disk. Raises ValueError if no code fits.
  """
  share = math.ceil(rows / nodes)
  room = _SHARE * memory / share - _OTHER_BYTES
  powers = [2**n for n in range(3, width.bit_length()) if 2**n < width]
  size = lambda dim, code: math.ceil(dim * budget.KINDS[code] / 8)
  found = []
  for code in CODES:
    dims = [dim for dim in (*powers, width) if size(dim, code) <= room]
    if not dims:
      continue
    of_code = size(dims[-1], code)
    (*sizes, last), ns = SCAN[code]
    # Beyond the widest in proportion.
    ns_row = np.interp(of_code, (*sizes, last), ns) * max(1, of_code / last)
    found.append(
      Node(
        code, dims[-1], share, of_code + _OTHER_BYTES,
        share * (of_code + _OTHER_BYTES), share * 4 * sum({width, dims[-1]}),
        share * of_code + min(shortlist, share) * 4 * width,
        float(share * ns_row / 1e6),
      )
    )  # fmt: skip
  if not found:
    least = (size(min(8, width), 'binary') + _OTHER_BYTES) * share / _SHARE
    raise ValueError(
      f'memory {memory / 1e9:g} GB: a node holds {share:,} of {rows:,} rows, '
      f'and needs {least / 1e9:.3g} GB at least'
    )
  return found


def choose(found: list[Node], points: list[dict[str, Any]]) -> Node:
  """The code with which a rerank finds the most of the true neighbours.

  `points` are those of `pareto.measure`. Without any int8 from 64 dims on, and
  below that the code with the most dims.
  """
  best = {}
  for node in found:
    code = '' if node.code == 'float32' else f'{node.code} '
    for point in points:
      if point['name'].startswith(f'{code}{node.dims} → '):
        best[node] = max(best.get(node, 0), point['k_recall'])
  if best:
    return max(best, key=lambda node: best[node])
  for node in found:
    if node.code == 'int8' and node.dims >= 64:
      return node
  return max(found, key=lambda node: node.dims)


def collection(node: Node, width: int, nodes: int) -> dict[str, Any]:
  """The body of Qdrant's `PUT /collections/<name>`: shards, codes and graph.

  Two shards a node, so that rows can move to a node that is added. The prefix
  is coded in memory, with a graph; full rows are on disk, without one.
  """
  prefix = {'size': node.dims, 'distance': 'Cosine'}
  prefix['hnsw_config'] = {'m': _LINKS, 'on_disk': False}
  if node.code == 'int8':
    scalar = {'type': 'int8', 'quantile': 0.99, 'always_ram': True}
    prefix['quantization_config'] = {'scalar': scalar}
  elif node.code == 'binary':
    prefix['quantization_config'] = {'binary': {'always_ram': True}}
  prefix['on_disk'] = node.code != 'float32'
  full = {'size': width, 'distance': 'Cosine', 'on_disk': True}
  vectors = {f'{node.dims}': prefix}
  if node.dims < width:
    vectors[f'{width}'] = full | {'hnsw_config': {'m': 0}}
  return {'vectors': vectors, 'shard_number': 2 * nodes}


def query(
  node: Node, width: int, shortlist: int, k: int, vectors: dict[int, Any]
) -> dict[str, Any]:
  """The body of Qdrant's `POST /collections/<name>/points/query`.

  `vectors` are the query's unit prefixes by width. The codes find the
  shortlist, unless they are of all dims, and the full width ranks it.
  """
  dims = nesting.validate(tuple(dict.fromkeys((node.dims, width))), width)
  kept = inputs.check_shortlists((shortlist, k)[-len(dims) :], dims)
  # Float prefixes on disk are not read: the full width ranks in their place.
  rescore = node.code != 'float32' and len(dims) == 1
  step = {
    'query': vectors[node.dims], 'using': f'{node.dims}', 'limit': kept[0],
    'params': {
      'hnsw_ef': shortlist, 'quantization': {'rescore': rescore}
    },
  }  # fmt: skip
  if len(dims) == 1:
    return step
  last = {'query': vectors[width], 'using': f'{width}', 'limit': k}
  return last | {'prefetch': step}


def describe(
  found: list[Node],
  nodes: int,
  width: int,
  shortlist: int,
  points: list[dict[str, Any]],
) -> tuple[str, dict[str, Any]]:
  """What fits, and the chosen settings for Qdrant: as text, and as a record."""
  best = choose(found, points)
  header = (
    '', 'code', 'dims', 'bytes/row', 'GB/node', 'GB on disk', 'MB/query',
    'ms/query',
  )  # fmt: skip
  rows = [
    (
      '*' if node == best else '', node.code, node.dims, node.row_bytes,
      f'{node.memory / 1e9:.4g}', f'{node.disk / 1e9:.4g}',
      f'{node.query_bytes / 1e6:,.0f}', f'{node.ms:,.0f}',
    )
    for node in found
  ]  # fmt: skip
  body = collection(best, width, nodes)
  vectors = {dim: f'its first {dim} numbers' for dim in (best.dims, width)}
  question = query(best, width, shortlist, min(10, shortlist), vectors)
  lines = [
    f'\n{nodes} nodes, {best.rows:,} rows of width {width} each. MB and ms of '
    'one core are those of every code of',
    f'a node (a model whose mean error is {ERROR},',
    'extrapolated beyond); a graph reads few of them:',
    terminal.table(Table(header, rows)),
    f'\nPUT /collections/embeddings\n{json.dumps(body)}',
    f'\nPOST /collections/embeddings/points/query\n{json.dumps(question)}',
  ]
  record = {'collection': body, 'query': question}
  record['nodes'] = [node._asdict() for node in found]
  return '\n'.join(lines), record
