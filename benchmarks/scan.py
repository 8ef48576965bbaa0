"""Times a query that reads every code, and fits the cost model of `plan`.

    python -m benchmarks.scan [--json=FILE]

One core, one query at a time, Faiss: float32, int8 (8-bit scalar quantiser),
binary and RaBitQ codes of several widths and of 1e5 to 1e6 rows. The model has
the ns of a row for some widths, as medians over the numbers of rows, between
which it is linear in bytes. Its error is that at all widths, also those it was
not fitted on, and all numbers of rows; the fewest of them fit into caches.
"""

import argparse
import time

import numpy as np

from benchmarks import timing

ROWS = (100_000, 200_000, 500_000, 1_000_000)
# The second and fourth widths are not fitted on.
DIMS = {
  'float32': (16, 32, 64, 128, 256),
  'int8': (16, 32, 64, 128, 256),
  'binary': (64, 128, 256, 512, 1024),
  'rabitq': (64, 96, 128, 192, 256),
}


def index(kind: str, dim: int):
  import faiss

  product = faiss.METRIC_INNER_PRODUCT
  if kind == 'float32':
    return faiss.IndexFlatIP(dim)
  if kind == 'int8':
    return faiss.IndexScalarQuantizer(
      dim, faiss.ScalarQuantizer.QT_8bit, product
    )
  if kind == 'binary':
    return faiss.IndexBinaryFlat(dim)
  return faiss.IndexRaBitQFastScan(dim, product)


def measure(kind: str, dim: int, rounds: int) -> list[dict]:
  """Medians for growing numbers of rows, which are added to one index."""
  rng, built, found = np.random.default_rng(0), index(kind, dim), []
  for count in ROWS:
    while built.ntotal < count:
      if kind == 'binary':
        rows = rng.integers(0, 256, (50_000, dim // 8), np.uint8)
      else:
        rows = rng.random((50_000, dim), np.float32) - np.float32(0.5)
      if not built.ntotal:
        built.train(rows)
      built.add(rows)
    size = built.code_size if kind != 'float32' else 4 * dim
    ns = []
    for i in range(rounds + 1):
      start = time.perf_counter_ns()
      built.search(rows[i : i + 1], 200)
      ns.append(time.perf_counter_ns() - start)
    found.append(
      {'code': kind, 'dims': dim, 'bytes': size, 'rows': count,
       'ms': float(np.median(ns[1:])) / 1e6}
    )  # fmt: skip
  return found


def fit(points: list[dict]) -> tuple[list[int], list[float]]:
  """Bytes of the fitted widths, and ns of a row."""
  ns = {}
  for x in points:
    ns.setdefault(x['bytes'], []).append(1e6 * x['ms'] / x['rows'])
  sizes = list(ns)[::2]
  return sizes, [round(float(np.median(ns[size])), 2) for size in sizes]


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.scan', description=__doc__.split('\n')[0]
  )
  parser.add_argument('--json', help='file for the figures')
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args()
  import faiss

  faiss.omp_set_num_threads(1)
  record = {'environment': timing.environment('faiss-cpu', 'numpy')}
  models = []
  for kind, dims in DIMS.items():
    points = [x for dim in dims for x in measure(kind, dim, args.rounds)]
    sizes, ns = fit(points)
    for x in points:
      x['model'] = x['rows'] * np.interp(x['bytes'], sizes, ns) / 1e6
      x['error %'] = 100 * abs(x['model'] / x['ms'] - 1)
    errors = [x['error %'] for x in points]
    models.append(
      {'code': kind, 'bytes': str(sizes), 'ns/row': str(ns),
       'mean error %': float(np.mean(errors)), 'worst %': max(errors)}
    )  # fmt: skip
    timing.show(f'{kind}, one query, one core', points)
    record[kind] = points
  timing.show('The model', models)
  record['models'] = models
  if args.json:
    timing.write_json(args.json, record)


if __name__ == '__main__':
  main()
