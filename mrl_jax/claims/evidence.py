"""Finished runs below a folder, and what they measured, over their seeds."""

from collections.abc import Callable, Iterable, Sequence
import json
import math
import pathlib
import statistics
from typing import NamedTuple

from ml_collections import ConfigDict

from mrl_jax import stages
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import read_metrics

_KINDS = {'mrl': 'MRL', 'mrl_e': 'MRL-E', 'fixed': 'FF'}


class Run(NamedTuple):
  """A finished run, and what its last checkpoint was measured to have.

  `values` are named as in metrics.jsonl, as `val/top1@8`.
  """

  kind: str  # MRL, MRL-E, FF, Slim, texts or pairs.
  config: ConfigDict
  workdir: Workdir
  values: dict[str, float]

  @property
  def name(self) -> str:
    return self.workdir.path.name

  def at(self, metric: str) -> dict[int, float]:
    """The values of `<metric>@<width>`, by width."""
    return {
      int(name.rpartition('@')[2]): value
      for name, value in self.values.items()
      if name.rpartition('@')[0] == metric
    }


class Mean(NamedTuple):
  """A mean over seeds, its sample deviation, and how many there are."""

  mean: float
  deviation: float
  count: int

  @property
  def error(self) -> float:
    """The standard error; infinite of a single seed, which tells nothing."""
    if self.count < 2:
      return math.inf
    return self.deviation / math.sqrt(self.count)

  def __str__(self) -> str:
    if self.count < 2:
      return f'{self.mean:.2f}'
    return f'{self.mean:.2f} ± {self.deviation:.2f}'


def mean(values: Iterable[float]) -> Mean:
  found = list(values)
  deviation = statistics.stdev(found) if len(found) > 1 else 0.0
  return Mean(statistics.fmean(found), deviation, len(found))


def difference(first: Mean, second: Mean) -> tuple[float, float]:
  """The difference of two means, and two standard errors of it."""
  return first.mean - second.mean, 2 * math.hypot(first.error, second.error)


def by_width(runs: Sequence[Run], metric: str) -> dict[int, Mean]:
  """The mean of a metric over runs, at the widths that all of them have."""
  found = [run.at(metric) for run in runs]
  widths = set.intersection(*map(set, found)) if found else set()
  return {w: mean(x[w] for x in found) for w in sorted(widths)}


def find(folder: pathlib.Path) -> list[Run]:
  """Reads the runs in a folder, or in folders of it, in order of their paths.

  Raises ValueError if there is none, or a workdir cannot be read.
  """
  found = (*folder.glob('*/stages.json'), *folder.glob('*/*/stages.json'))
  paths = sorted(x.parent for x in found)
  runs = [_read(path) for path in paths]
  if not runs:
    raise ValueError(f'{folder}: has no finished runs: bash runs/claims.sh')
  return runs


def _read(path: pathlib.Path) -> Run:
  config, workdir = stages.open_recorded(path)
  step, values = workdir.latest_step(), {}
  if workdir.metrics.exists():
    for record in read_metrics(workdir.metrics):
      if record['step'] == step:
        values |= record
  for part in sorted(workdir.evaluation.glob('*.json')):
    record = json.loads(part.read_text(encoding='utf-8'))
    if record.get('step') == step:
      values |= record.get('values', {})
  if 'pairs' in config:
    kind = 'pairs'
  elif 'text' in config:
    kind = 'texts'
  else:
    kind = 'Slim' if config.slimmable else _KINDS.get(config.head, config.head)
  return Run(kind, config, workdir, values)


class Evidence:
  """The runs of all claims."""

  def __init__(self, runs: Sequence[Run]):
    self.runs = runs

  def select(
    self, kind: str, is_meant: Callable[[ConfigDict], bool] = lambda _: True
  ) -> list[Run]:
    """The evaluated runs of a kind whose config is meant."""
    return [
      run
      for run in self.runs
      if run.kind == kind
      and 'evaluate' in run.workdir.marks()
      and is_meant(run.config)
    ]

  def plain(self, kind: str) -> list[Run]:
    """Those trained afresh, in whole, with all widths weighing the same."""
    return self.select(
      kind,
      lambda config: (
        not config.init_from
        and not config.trainable
        and not config.nesting_weights
      ),
    )

  def fixed(self) -> dict[int, list[Run]]:
    """The runs of one fixed width each, by this width."""
    found = {}
    for run in self.plain('FF'):
      found.setdefault(run.config.nesting_dims[-1], []).append(run)
    return dict(sorted(found.items()))
