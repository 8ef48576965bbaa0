"""Finished runs below a folder, and what they measured, over their seeds."""

import collections
from collections.abc import Callable, Sequence
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mrl_jax import stages
from mrl_jax.compare import runs as compare_runs
from mrl_jax.compare.means import Mean
from mrl_jax.compare.means import mean
from mrl_jax.workdir import checksums
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import read_metrics

# Kinds of runs that have no images, or texts beside them.
_OTHER_KINDS = ('texts', 'pairs')


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
    return compare_runs.by_width(self.values, f'{metric}@')

  def record(self, folder: pathlib.Path, name: str) -> dict[str, Any] | None:
    """A stage's record; None if it is missing or of another checkpoint.

    Raises ValueError if it is not as it was written.
    """
    return _record(self.workdir, folder / name)


def _setting(run: Run) -> tuple[str, str, int]:
  """What runs must have in common to be compared."""
  return run.config.dataset, run.config.encoder, run.config.image_size


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
  values, step = {}, workdir.latest_step()
  if workdir.metrics.exists():
    for record in read_metrics(workdir.metrics):
      if record['step'] == step:
        values |= record
  for part in sorted(workdir.evaluation.glob('*.json')):
    values |= (_record(workdir, part) or {}).get('values', {})
  if 'pairs' in config:
    kind = 'pairs'
  elif 'text' in config:
    kind = 'texts'
  else:
    kind = compare_runs.kind_of(config)
  return Run(kind, config, workdir, values)


def _record(workdir: Workdir, path: pathlib.Path) -> dict[str, Any] | None:
  if not path.exists():
    return None
  remedy = 'delete it and run the stage that wrote it again'
  record = checksums.read(path, remedy).record
  checkpoint = workdir.checkpoint(workdir.latest_step())
  return record if checkpoint.has_made(record) else None


class Evidence:
  """The runs of all claims.

  Claims on images compare runs of one dataset and encoder: those of which there
  are most, since a few others are there only to be timed.
  """

  def __init__(self, runs: Sequence[Run]):
    self.runs = runs
    counts = collections.Counter(
      _setting(x) for x in runs if x.kind not in _OTHER_KINDS
    )
    self._setting = max(counts, key=counts.get, default=None)

  def select(
    self, kind: str, is_meant: Callable[[ConfigDict], bool] = lambda _: True
  ) -> list[Run]:
    """The trained runs of a kind whose config is meant."""
    return [
      run
      for run in self.runs
      if run.kind == kind
      and (kind in _OTHER_KINDS or _setting(run) == self._setting)
      and 'train' in run.workdir.marks()
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
