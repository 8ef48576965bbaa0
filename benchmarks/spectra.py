"""Times exact searches at several spectra, and every way to do each.

Rows of the table are a number of queries and neighbours. `to 64` multiplies all
rows up to 64 dims before bounds are looked at, `to` the full width is the plain
product. `chosen` is the width that the search chose (of few queries the product
goes on while it pays). Times are medians in ms; the last lines say how often
the choice was the fastest of those timed, or within a tenth of it, and with
`--fit` what the choice should take an operation to cost.
"""

import numpy as np
import scipy.optimize

from benchmarks import timing
from mrl_jax import retrieval
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cpu import bounds
from mrl_jax.retrieval.cpu import choice
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.cpu import stored


def run(args, embeddings) -> list[timing.Row]:
  rows, count_NO, ms_N = [], [], []
  for power in args.spectrum:
    row_MD, _, query_QD, _ = embeddings(
      args.rows, max(args.queries), args.width, power=power
    )
    database = retrieval.prepare(row_MD)
    indices = _flat_indices(row_MD) if args.peer else {}
    for Q in args.queries:
      for k in (10, args.shortlist) if Q > 1 else (10,):
        row, counts = _search(args, database, indices, query_QD[:Q], k)
        rows.append({'spectrum': power, 'queries': Q, 'k': k} | row)
        print(rows[-1], flush=True)
        for width, count_O in counts.items():
          count_NO.append(count_O)
          ms_N.append(row[f'to {width}'])
  shares = np.array([row['best way / ours'] for row in rows])
  print(
    f'of {len(rows)} choices {np.sum(shares >= 1)} took no longer than any way '
    f'timed, {np.sum(shares >= 0.9)} at most a tenth longer'
  )
  if args.fit and count_NO:
    _fit(np.array(count_NO), np.array(ms_N))
  return rows


def _search(args, database, indices, query_QD, k):
  """A row of times, and the operations that each way counts, by width."""
  Q, width = len(query_QD), args.width
  unit_QD = prefixes.unit(query_QD, width)
  functions = {'ours': lambda: retrieval.search(query_QD, database, k)}
  for name, index in indices.items():
    functions[name] = lambda index=index: index.search(unit_QD, k)
  peers = list(functions)[1:]
  level_L, tile_NWT = bounds.levels(width), database.tile_NWT
  for i, end in enumerate(level_L[1:], 1):
    if Q < choice.FEW and tile_NWT.shape[1] < end < width:
      continue
    functions[f'to {end}'] = lambda i=i: exact.nearest(
      unit_QD, database, k, cosine=True, level=i
    )
  ms = timing.medians(functions, args.rounds)
  ways = [name for name in functions if name.startswith('to ')]
  row, counts = dict.fromkeys(f'to {end}' for end in level_L[1:]) | ms, {}
  row['chosen'] = None
  if Q >= choice.FEW:
    rows = stored.rows(database, width, True, bounded=True)
    given = stored.queries(unit_QD), rows, k, tile_NWT
    row['chosen'] = level_L[choice.level(*given)]
    counts = dict(zip(level_L[1:], choice.counts(*given), strict=True))
  best = min((ms[name] for name in peers), default=ms['ours'])
  row['x best peer'] = best / ms['ours']
  row['best way / ours'] = min(ms[name] for name in ways) / ms['ours']
  return row, counts


def _fit(count_NO, ms_N) -> None:
  """Prints nanoseconds an operation, whose relative errors are smallest."""
  fitted_O, _ = scipy.optimize.nnls(
    1e-6 * count_NO / ms_N[:, None], np.ones(len(ms_N))
  )
  for name, now, ns in zip(
    choice.OPERATIONS, choice.NANOSECONDS, fitted_O, strict=True
  ):
    print(f'{name}: {ns:.4g} ns (now {now:.4g})')
  for title, ns_O in (('now', choice.NANOSECONDS), ('fitted', fitted_O)):
    error_N = np.abs(np.log(1e-6 * count_NO @ ns_O / ms_N))
    print(f'{title}: median error x {np.exp(np.median(error_N)):.2f}')


def _flat_indices(row_MD):
  import faiss

  unit_MD = row_MD.copy()
  faiss.normalize_L2(unit_MD)
  width = row_MD.shape[1]
  indices = {'IndexFlatIP': faiss.IndexFlatIP(width)}
  if hasattr(faiss, 'IndexFlatIPPanorama'):
    indices['Panorama'] = faiss.IndexFlatIPPanorama(width, 32)
  for index in indices.values():
    index.add(unit_MD)
  return indices
