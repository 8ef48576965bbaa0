"""The numbers that are plotted, on the page and in figures for papers.

Accuracies and shares are in percent.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]
Points = Sequence[tuple[float, float]]
FLOAT_BYTES = 4


def accuracies(
  values: Mapping[str, float], widths: Sequence[int], baselines: Record | None
) -> dict[str, Points]:
  """(width, accuracy) points of the heads, of 1-NN and of its baselines."""
  series = {
    label: [
      (dim, values[f'{name}@{dim}'])
      for dim in widths
      if f'{name}@{dim}' in values
    ]
    for label, name in {'linear': 'val/top1', '1-NN': 'val/knn1'}.items()
  }
  if baselines:
    dims, knn1 = baselines['dims'], baselines['knn1']
    shown = {label: knn1[label] for label in ('PCA', 'SVD', 'random dims')}
    if baselines['sampled']:
      shown['1-NN'] = knn1['nested']
    series |= by_width(dims, shown)
  # A projection that leaves a row all zero has no accuracy.
  series = {
    label: [point for point in points if point[1] is not None]
    for label, points in series.items()
  }
  return {label: points for label, points in series.items() if points}


class Search(NamedTuple):
  """A search of retrieval.json: its cost, its mAP@10 and its name."""

  mflops: float
  accuracy: float
  name: str


def searches(record: Record) -> dict[str, list[Search]]:
  """The searches of each kind; empty without labels to measure mAP@10 by."""
  kinds = {}
  for name, method in record['methods'].items():
    map10 = method['metrics'].get('map10')
    if map10 is None:
      continue
    steps = len(method['dims'])
    kind = 'exact' if steps == 1 else 'adaptive' if steps == 2 else 'funnel'
    search = Search(method['mflops_per_query'], map10, name.replace('-', ' → '))
    kinds.setdefault(kind, []).append(search)
  return kinds


def curves(
  records: Sequence[Mapping[str, float]], name: str, dims: Sequence[int]
) -> dict[int, Points]:
  """(step, value) points of each width; widths without any are left out."""
  series = {
    dim: [
      (record['step'], record[f'{name}@{dim}'])
      for record in records
      if f'{name}@{dim}' in record
    ]
    for dim in dims
  }
  return {dim: points for dim, points in series.items() if points}


def cascade(record: Record) -> dict[str, Points]:
  """(expected width, accuracy) points: one width for all, and the cascade."""
  expected, accuracy = record['expected_dim'], record['accuracy']
  return {
    **by_width(record['dims'], {'one width for all': record['single']}),
    **by_width(expected['mean'], {'as wide as needed': accuracy['mean']}),
  }


def smallest_correct(record: Record) -> dict[str, float]:
  """Share of examples by the smallest width that is correct, or `never`."""
  names = (*map(str, record['dims']), 'never')
  counts = (*record['count'], record['never'])
  return {
    name: 100 * count / record['examples']
    for name, count in zip(names, counts, strict=True)
  }


def of_full_width(record: Record) -> dict[str, Points]:
  """Share of the full width's variance and neighbours that each prefix has."""
  shares = {
    'variance': record['explained_variance'],
    f'{record["k"]} neighbours (Jaccard)': [x[-1] for x in record['overlap']],
  }
  return by_width(
    record['dims'], dict(zip(shares, percent(shares.values()), strict=True))
  )


def by_width(
  dims: Sequence[int], values: Mapping[str, Sequence[float | None]]
) -> dict[str, Points]:
  """(width, value) points by name."""
  return {name: list(zip(dims, x, strict=True)) for name, x in values.items()}


def reliability(record: Record) -> dict[int, Points]:
  """(confidence, accuracy) points of each width's bins.

  Bins with fewer than 1 % of the examples are None: they say little.
  """
  bins, series = record['bins'], {}
  for dim, counts, *rows in zip(
    record['dims'], bins['count'], bins['confidence'], bins['accuracy'],
    strict=True,
  ):  # fmt: skip
    least = max(1, 0.01 * sum(counts))
    series[dim] = [
      (x, y) if n >= least else (None, None)
      for n, x, y in zip(counts, *rows, strict=True)
    ]
  return series


def few_shot(record: Record) -> dict[str, Points]:
  """(width, accuracy) points, by the setting's name."""
  accuracies = {}
  for setting in record['settings']:
    shots, ways = setting['shots'], setting['ways']
    name = f'{shots} example{"s" * (shots > 1)} of {ways} classes'
    accuracies[name] = setting['accuracy']
  return by_width(record['dims'], accuracies)


def percent(rows: Iterable[Sequence[float]]) -> list[list[float]]:
  """A matrix of shares, in percent."""
  return [[100 * value for value in row] for row in rows]
