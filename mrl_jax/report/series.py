"""What is plotted of the analyses, on the page and in figures for papers."""

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def first_right(record: Record) -> dict[str, float]:
  """Examples in percent by the smallest width that is right, or `never`."""
  names = (*map(str, record['dims']), 'never')
  counts = (*record['count'], record['never'])
  return {
    name: 100 * count / record['examples']
    for name, count in zip(names, counts, strict=True)
  }


def shared(record: Record) -> dict[str, list[float]]:
  """What each prefix has of the full width, in percent."""
  return {
    'variance': [100 * value for value in record['explained_variance']],
    f'{record["k"]} neighbours (Jaccard)': [
      row[-1] for row in percent(record['overlap'])
    ],
  }


def reliable(record: Record) -> tuple[list[list[float | None]], ...]:
  """Confidence and accuracy of each width's bins, in percent.

  None in bins with fewer than 1 % of the examples, which say nothing.
  """
  bins = record['bins']
  least_G = [max(1, 0.01 * sum(counts)) for counts in bins['count']]
  return tuple(
    [
      [x if n >= least else None for x, n in zip(row, counts, strict=True)]
      for row, counts, least in zip(
        bins[name], bins['count'], least_G, strict=True
      )
    ]
    for name in ('confidence', 'accuracy')
  )


def few_shot(record: Record) -> dict[str, list[float]]:
  """In percent, at each of the record's dims, by name of the setting."""
  return {
    _setting(setting): setting['accuracy'] for setting in record['settings']
  }


def percent(rows: Sequence[Sequence[float]]) -> list[list[float]]:
  return [[100 * value for value in row] for row in rows]


def _setting(setting: Record) -> str:
  shots = setting['shots']
  return f'{shots} example{"s" * (shots > 1)} of {setting["ways"]} classes'
