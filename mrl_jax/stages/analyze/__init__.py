"""Analyses the saved predictions and embeddings of a model over its widths."""

from collections.abc import Mapping, Sequence
import pathlib
import types
from typing import Any, TypedDict

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import terminal
from mrl_jax.analysis import results as results_lib
from mrl_jax.analysis import superclass
from mrl_jax.data.sources import eval_sets
from mrl_jax.losses import metrics
from mrl_jax.report.records import Setting
from mrl_jax.stages import recorded
from mrl_jax.stages.analyze import baselines
from mrl_jax.stages.analyze import projection
from mrl_jax.stages.analyze import saliency
from mrl_jax.terminal import tables
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import files
from mrl_jax.workdir import predictions
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter

_NAMES = (
  'cascade',
  'cascade_curve',
  'oracle',
  'calibration',
  'per_class',
  'few_shot',
  'structure',
)


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [*_NAMES, *(['superclass'] if config.superclasses else [])]
  return [
    *(workdir.analysis / f'{name}.json' for name in names),
    workdir.analysis / 'table.md',
    workdir.analysis / 'table.csv',
    *(workdir.analysis / x for part in _parts(config) for x in part.FILES),
  ]


def _parts(config: ConfigDict) -> tuple[types.ModuleType, ...]:
  # Vectors have no pictures. Only one process runs this stage, and a checkpoint
  # must be opened by all of them.
  if config.embeddings or jax.process_count() > 1:
    return (baselines,)
  return baselines, projection, saliency


class _Evaluated(TypedDict):
  """The fields of evaluation/val.json that this stage reads."""

  widths: list[int]
  few_shot: list[Setting]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes analysis/*.json, a table as Markdown and CSV, and prints it.

  Accuracies are in percent. The numbers for each width are written to
  metrics.jsonl as well, as `analysis/…@<width>`. Raises ValueError if the files
  of evaluate or embed are missing, or belong to another checkpoint.
  """
  dims = tuple(config.nesting_dims)
  saved = predictions.load(workdir.predictions, config.eval_split, dims)
  embedding_ND, label_N, manifest = embeddings.load(
    workdir.embeddings, config.eval_split
  )
  steps = saved.manifest['step'], manifest['step']
  of_one = all(map(checkpoint.has_made, (saved.manifest, manifest)))
  if not of_one or not np.array_equal(saved.label_N, label_N):
    raise ValueError(
      f'{workdir.predictions} is of step {steps[0]} and {workdir.embeddings} '
      f'of step {steps[1]}: delete both and run --mode=embed,evaluate'
    )
  path = workdir.evaluation / 'val.json'
  found = checksums.read(path, 'delete it and run --mode=evaluate')
  evaluated = files.checked(found.record, str(path), _Evaluated)
  class_names = recorded.class_names(config, workdir)
  groups = load_groups(config.superclasses, class_names)
  results = results_lib.compute(
    dims,
    saved,
    embedding_ND,
    class_names,
    groups=groups,
    fitting=results_lib.Fitting(**config.cascade),
    seed=config.seed,
  )
  results['few_shot'] = {
    'dims': evaluated['widths'],
    'settings': [
      {key: setting[key] for key in ('shots', 'ways', 'accuracy', 'std')}
      for setting in evaluated['few_shot']
    ],
  }
  # An earlier run may have had other settings.
  for name in (*_NAMES, 'superclass', 'baselines', 'projection', 'saliency'):
    (workdir.analysis / f'{name}.json').unlink(missing_ok=True)
  for name, result in results.items():
    checksums.write(
      workdir.analysis / f'{name}.json',
      {**checkpoint.as_json(), **results_lib.plain(result)},
    )
  table = _table(results)
  files.write_text(workdir.analysis / 'table.md', tables.markdown(table))
  files.write_text(workdir.analysis / 'table.csv', tables.csv(table))
  with MetricWriter(workdir.metrics) as writer:
    writer.replace(checkpoint.step, _metrics(results), prefix='analysis/')
  terminal.say(_lines(config, results) + '\n' + terminal.table(table))
  for part in _parts(config):
    part.run(config, workdir, checkpoint)
  if jax.process_count() > 1:
    terminal.say(
      'analyze: no maps and no Grad-CAM by several processes; --mode=analyze,'
      'report of one process adds them'
    )


def load_groups(
  superclasses: str, class_names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]] | None:
  """Reads a mapping from classes to superclasses.

  `superclasses` is a JSON file, or wordnet_30 for the one that comes with the
  package; None is returned if it is empty.
  """
  if not superclasses:
    return None
  path = files.local(superclasses, 'superclasses')
  if superclasses == 'wordnet_30':
    path = eval_sets.TABLES / 'wordnet_30.json'
  if not path.is_file():
    raise ValueError(
      f'superclasses {superclasses!r}: must be a JSON file, class to group, or '
      'wordnet_30'
    )
  return superclass.load_groups(path, class_names)


def _table(results: Mapping[str, Any]) -> tables.Table:
  curve, found = results['cascade_curve'], results['oracle']
  columns = {
    'top-1 %': curve['single'],
    'cascade %': curve['accuracy']['mean'],
    '±': curve['accuracy']['std'],
    'expected dims': curve['expected_dim']['mean'],
    'cumulated': curve['cumulated_dim']['mean'],
    'first right': found['count'],
    'ECE %': results['calibration']['ece'],
    'variance %': 100 * results['structure']['explained_variance'],
  }
  if 'superclass' in results:
    columns['superclass %'] = results['superclass']['accuracy']
  rows = zip(
    curve['dims'], *(x.tolist() for x in columns.values()), strict=True
  )
  return tables.Table(('width', *columns), list(rows))


def _metrics(results: Mapping[str, Any]) -> dict[str, float]:
  curve, found = results['cascade_curve'], results['oracle']
  per_width = {
    'cascade_accuracy': curve['accuracy']['mean'],
    'cascade_dim': curve['expected_dim']['mean'],
    'ece': results['calibration']['ece'],
    'explained_variance': results['structure']['explained_variance'],
  }
  if 'superclass' in results:
    per_width['superclass'] = results['superclass']['accuracy']
  values = {
    'analysis/oracle': found['accuracy'],
    'analysis/majority': found['majority'],
  }
  for name, value_G in per_width.items():
    values |= metrics.per_width(f'analysis/{name}', curve['dims'], value_G)
  return values


def _lines(config: ConfigDict, results: Mapping[str, Any]) -> str:
  found = results['oracle']
  trends = '; '.join(
    f'{count} {name}' for name, count in found['trends'].items()
  )
  return (
    f'analyze: {found["examples"]:,} examples of {config.eval_split}. Some '
    f'width is right on {found["accuracy"]:.2f} %, the smallest one having '
    f'{found["expected_dim"]:.3g} numbers on average, and none on '
    f'{found["never"]:,}; a vote of all widths is on {found["majority"]:.2f} '
    f'%. Classes with width: {trends}'
  )
