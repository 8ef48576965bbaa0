"""Writes a run's results as one HTML page, and as figures for papers."""

from collections.abc import Iterator, Mapping
import pathlib
from typing import Any

from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.report import analyses as analyses_lib
from mrl_jax.report import headline
from mrl_jax.report import images
from mrl_jax.report import measurements
from mrl_jax.report import page as page_lib
from mrl_jax.report import paper
from mrl_jax.report import records as records_lib
from mrl_jax.report import series
from mrl_jax.report.content import Section
from mrl_jax.stages import config as config_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import last_evaluation
from mrl_jax.workdir.metrics_log import read_metrics

# Files of the analysis, and their name in the line on what is missing.
_ANALYSES = {
  'baselines': 'baselines',
  'projection': 'the map of the space',
  'cascade_curve': 'the cascade',
  'oracle': 'what each width knows',
  'structure': 'shared neighbours',
  'saliency': 'where each width looks',
  'calibration': 'calibration',
  'few_shot': 'few-shot accuracy',
  # Part of the oracle's; and only where there is a mapping of the classes.
  'per_class': '',
  'superclass': '',
}


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.report / 'index.html']


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes report/index.html, and its figures for papers as SVG and PNG.

  The page shows the results of retrieve and analyze if they belong to the
  evaluated checkpoint; where they are missing, it names the stage to run.
  """
  records = read_metrics(workdir.metrics)
  dims, widths = tuple(config.nesting_dims), config_lib.measured_dims(config)
  values = last_evaluation(workdir.metrics, dims[-1], checkpoint.step)
  if values is None:
    raise ValueError(
      f'{workdir.metrics} holds no evaluation of that checkpoint: delete '
      f'{workdir.evaluation} and run --mode=evaluate'
    )
  retrieved = _read(workdir.retrieval / 'retrieval.json', checkpoint)
  folder = workdir.path / 'analysis'
  analyses = {
    name: _read(folder / f'{name}.json', checkpoint) for name in _ANALYSES
  }
  sections = [
    measurements.accuracy(values, widths, dims, analyses['baselines']),
    *_with(analyses['projection'], images.projection, folder),
    *_with(retrieved, measurements.retrieval),
    *_with(analyses['cascade_curve'], analyses_lib.cascade),
    *_with(analyses['oracle'], analyses_lib.oracle, analyses['per_class']),
    *_with(analyses['structure'], analyses_lib.structure),
    *_with(analyses['saliency'], images.saliency, folder),
    *_with(analyses['calibration'], analyses_lib.calibration),
    *_with(analyses['few_shot'], analyses_lib.few_shot, dims),
    *_with(analyses['superclass'], analyses_lib.superclasses),
    measurements.training(records, dims),
    measurements.settings(workdir.config),
  ]
  page = page_lib.render(
    f'{config.name}: nested embeddings',
    headline.make(workdir.config, values, retrieved),
    sections,
    footer=_missing(retrieved, analyses),
  )
  paper.write(
    workdir.report,
    accuracy=series.accuracies(values, widths, analyses['baselines']),
    dims=dims,
    records=records,
    retrieved=retrieved,
    analyses=analyses,
    analysis_folder=folder,
  )
  path = workdir.report / 'index.html'
  with files.replacing(path) as temporary:
    temporary.write_text(page, encoding='utf-8')
  terminal.say(f'report: {path}, {len(page) / 1e6:.1f} MB')


def _read(path: pathlib.Path, checkpoint: Checkpoint) -> dict[str, Any] | None:
  """Reads a record; None if it is missing or belongs to another checkpoint."""
  if not path.exists():
    return None
  schema = records_lib.SCHEMAS[path.stem]
  record = files.checked(_read_checked(path), str(path), schema)
  if not checkpoint.has_made(record):
    terminal.say(f'report: {path} is of another checkpoint, left out')
    return None
  return record


def _read_checked(path: pathlib.Path) -> dict[str, Any]:
  """Reads a record, and checks the arrays and pictures that it names."""
  stage = 'retrieve' if path.name == 'retrieval.json' else 'analyze'
  sealed = checksums.read(path, f'delete it and run --mode={stage}')
  # The page shows a search by its record alone.
  if stage == 'analyze':
    sealed.check(*(sealed.files or ()))
  return sealed.record


def _with(record: Mapping[str, Any] | None, make, *args) -> Iterator[Section]:
  if record is not None:
    yield make(record, *args)


def _missing(retrieved: Mapping | None, analyses: Mapping[str, Any]) -> str:
  """A sentence for each stage whose results are not on the page."""
  lines = []
  if retrieved is None:
    lines.append('Not here: retrieval; --mode=retrieve,report adds it.')
  missing = [name for name, record in analyses.items() if record is None]
  if lacking := [_ANALYSES[name] for name in missing if _ANALYSES[name]]:
    lines.append(
      f'Not here: {", ".join(lacking)}; --mode=analyze,report adds what there '
      'is to know.'
    )
  return ' '.join(lines)
