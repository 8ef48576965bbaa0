"""Times exact, adaptive and funnel search; their metrics, memory and memmaps.

    python -m benchmarks.retrieval [--peer=faiss] [--json=FILE]
                                   [--rows=100000] [--memmap_gb=8]
    python -m benchmarks.retrieval --peer=faiss --spectrum=1,0.5,0
                                   --queries=200,1 --rows=50000 --width=1024
                                   [--fit]

Embeddings are class centres and noise, with a standard deviation of 1/j**s in
dim j, where s is 1 or the spectrum. With `--spectrum` only exact searches are
timed, see `spectra`. Medians of alternating runs; `x exact` is how much faster
than our own exact search of the same run, `x in full` than one that reads every
row to its end. The rerank stands beside a copy of the rows it
reads. With `memmap_gb`, rows of that many GB are searched on disk, beside
reading the file, both with an empty cache.
"""

import argparse
import dataclasses
import os
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import spectra
from benchmarks import timing
from mrl_jax import retrieval
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cpu import exact

CLASSES, NOISE = 1000, 0.3
FUNNELS = {
  (16, 32, 64, 128, 256, 2048): (200, 100, 50, 25, 10, 10),
  (16, 64, 2048): (200, 50, 10),
}
# The last of the levels, at which rows are multiplied in full.
IN_FULL = -1
METRICS = (50_000, 200)
_CHUNK = 64 << 20


def main() -> None:
  args = _parse_args()
  packages = ['jax', 'numpy', *(['faiss-cpu'] if args.peer else [])]
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  if args.spectrum:
    title = f'{args.rows:,} rows of {args.width}, ms'
    record[title] = spectra.run(args, embeddings)
    timing.show(title, record[title])
    if args.json:
      timing.write_json(args.json, record)
    return
  args.queries = args.queries[0]
  rows_MD, label_M, query_QD, query_label_Q = embeddings(
    args.rows, args.queries, args.width
  )
  title = f'{args.queries:,} queries, {args.rows:,} rows of {args.width}'
  record[title] = _searches(args, rows_MD, label_M, query_QD, query_label_Q)
  timing.show(title, record[title])
  title = 'Rerank of the shortlist, and a copy of its rows'
  record[title] = [_rerank(args, rows_MD, query_QD)]
  timing.show(title, record[title])
  title = 'Peak of memory beside rows and queries, exact search'
  record[title] = [_memory(args, rows_MD, query_QD)]
  timing.show(title, record[title])
  title = f'Metrics of {METRICS[0]:,} queries, {METRICS[1]} neighbours'
  record[title] = [_metrics()]
  timing.show(title, record[title])
  if args.memmap_gb:
    title = f'{args.memmap_gb} GB on disk'
    record[title] = [_memmap(args, query_QD)]
    timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.retrieval', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--peer', choices=('faiss',))
  add('--json', help='file for the figures')
  add('--rows', type=int, default=100_000)
  numbers = lambda text: [float(x) for x in text.split(',')]
  counts = lambda text: [int(x) for x in text.split(',')]
  add('--spectrum', type=numbers, help='exponents s: 0 is flat')
  add('--fit', action='store_true', help='fits the constants of the choice')
  add('--queries', type=counts, default=[500])
  add('--width', type=int, default=2048)
  add('--shortlist', type=int, default=200)
  add('--rounds', type=int, default=7)
  add('--memmap_gb', type=float, default=0)
  return parser.parse_args()


def embeddings(
  rows: int, queries: int, width: int, seed: int = 0, power: float = 1
):
  """Rows [M, D], their labels, queries [Q, D] and theirs."""
  rng = np.random.default_rng(seed)
  scale_D = np.arange(1, width + 1, dtype=np.float32) ** -np.float32(power)
  center_CD = rng.standard_normal((CLASSES, width), np.float32) * scale_D
  arrays = []
  for count in (rows, queries):
    label_N = rng.integers(0, CLASSES, count)
    row_ND = rng.standard_normal((count, width), np.float32)
    row_ND *= NOISE * scale_D
    row_ND += center_CD[label_N]
    arrays += [row_ND, label_N]
  return arrays


def _searches(args, rows_MD, label_M, query_QD, query_label_Q):
  width = args.width
  database = retrieval.prepare(rows_MD, sorted({*sum(FUNNELS, ()), width}))
  searches = {f'exact, top {args.shortlist}': ((width,), (args.shortlist,))}
  searches |= {'exact, top 10': ((width,), (10,))}
  searches |= {'shortlist at 16': ((16,), (args.shortlist,))}
  searches |= {'adaptive 16-2048': ((16, width), (args.shortlist, 10))}
  for dims, shortlists in FUNNELS.items():
    name = '-'.join(map(str, dims))
    searches[f'funnel {name}'] = dims, shortlists
  functions, found = {}, {}
  in_full = f'every row in full, top {args.shortlist}'
  unit_QD = prefixes.unit(query_QD, width)

  def run_in_full():
    found[in_full] = exact.nearest(
      unit_QD, database, args.shortlist, cosine=True, level=IN_FULL
    )

  functions[in_full] = run_in_full
  for name, (dims, shortlists) in searches.items():

    def run(name=name, dims=dims, shortlists=shortlists):
      found[name] = retrieval.funnel(
        query_QD, database, dims=dims, shortlists=shortlists
      )

    functions[name] = run
  if args.peer:
    functions |= _faiss(args, rows_MD, query_QD)
  ms = timing.medians(functions, args.rounds)
  baseline = f'exact, top {args.shortlist}'
  rows = []
  for name in functions:
    row = {
      'search': name,
      'ms': ms[name],
      'queries/s': 1e3 * args.queries / ms[name],
      'x in full': ms[in_full] / ms[name],
      'x exact': ms[baseline] / ms[name],
      'mAP@10': None,
      'MFLOPs/query': None,
    }
    if name in found:
      labels_QK = label_M[found[name].ids_QK]
      row['mAP@10'] = f'{_map(labels_QK, query_label_Q):.5f}'
    if name in searches:
      row['MFLOPs/query'] = found[name].cost.mflops
    rows.append(row)
  return rows


def _map(labels_QK, query_label_Q) -> float:
  return metrics.mean_average_precision(labels_QK, query_label_Q, 10)


def _faiss(args, rows_MD, query_QD):
  import faiss

  functions = {}
  for dim in (args.width, 16):
    # It takes rows of one width, which are normalised before.
    unit_Md, unit_Qd = (
      np.ascontiguousarray(x[:, :dim]).copy() for x in (rows_MD, query_QD)
    )
    faiss.normalize_L2(unit_Md)
    faiss.normalize_L2(unit_Qd)
    index = faiss.IndexFlatIP(dim)
    index.add(unit_Md)
    functions[f'Faiss IndexFlatIP at {dim}, top {args.shortlist}'] = (
      lambda index=index, query_Qd=unit_Qd: index.search(
        query_Qd, args.shortlist
      )
    )
  return functions


def _rerank(args, rows_MD, query_QD):
  database = retrieval.prepare(rows_MD, (16, args.width))
  ids_QK = retrieval.search(query_QD, database, args.shortlist, dim=16).ids_QK
  flat = ids_QK.ravel()
  copy = np.empty((len(flat), args.width), np.float32)
  ms = timing.medians(
    {
      'rerank': lambda: retrieval.rerank(query_QD, database, ids_QK, 10),
      'copy': lambda: np.take(rows_MD, flat, axis=0, out=copy, mode='clip'),
    },
    args.rounds,
  )
  return {
    'rerank ms': ms['rerank'],
    'copy ms': ms['copy'],
    'rerank / copy': ms['rerank'] / ms['copy'],
    'GB': copy.nbytes / 1e9,
  }


def _memory(args, rows_MD, query_QD):
  database = retrieval.prepare(rows_MD)
  retrieval.search(query_QD, database, 1)  # Compiles.
  # Forgets the peak so far.
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  before = _status('VmRSS')
  retrieval.search(query_QD, database, args.shortlist)
  return {'MB': (_status('VmHWM') - before) / 1e3}


def _status(name: str) -> int:
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return int(next(x.split()[1] for x in lines if x.startswith(f'{name}:')))


def _metrics():
  (Q, K), rng = METRICS, np.random.default_rng(0)
  labels_QK = rng.integers(0, CLASSES, (Q, K))
  query_label_Q = rng.integers(0, CLASSES, Q)
  database_label_M = rng.integers(0, CLASSES, 20 * Q)

  def run():
    relevant_Q = metrics.count_relevant(database_label_M, query_label_Q)
    metrics.summary(
      labels_QK, query_label_Q, (1, 10, 25, 50, 100), num_relevant=relevant_Q
    )

  return {'s': timing.medians({'metrics': run}, 3)['metrics'] / 1e3}


def _memmap(args, query_QD):
  count = int(args.memmap_gb * 1e9) // (4 * args.width)
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'rows.npy'
    rows_MD = np.lib.format.open_memmap(
      path, mode='w+', dtype=np.float32, shape=(count, args.width)
    )
    block = rng.standard_normal((8192, args.width), np.float32)
    for start in range(0, count, len(block)):
      part = rows_MD[start : start + len(block)]
      part[:] = block[: len(part)]
    rows_MD.flush()
    del rows_MD
    _evict(path)
    start = time.perf_counter()
    with open(path, 'rb', buffering=0) as file:
      while file.read(_CHUNK):
        pass
    read = time.perf_counter() - start
    _evict(path)
    start = time.perf_counter()
    database = retrieval.prepare(np.load(path, mmap_mode='r'))
    prepare = time.perf_counter() - start
    # What is mapped stays in the cache.
    database = dataclasses.replace(database, embedding_MD=np.empty(0))
    _evict(path)
    rows_MD = np.load(path, mmap_mode='r')
    database = dataclasses.replace(database, embedding_MD=rows_MD)
    start = time.perf_counter()
    retrieval.search(query_QD[:8], database, 10)
    search = time.perf_counter() - start
    size = path.stat().st_size / 1e9
  return {
    'read GB/s': size / read,
    'prepare GB/s': size / prepare,
    'search of 8 GB/s': size / search,
    'search / read': read / search,
  }


def _evict(path: pathlib.Path) -> None:
  """Drops the file from the system's cache."""
  with open(path, 'rb') as file:
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == '__main__':
  main()
