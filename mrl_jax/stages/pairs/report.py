"""Writes the results of a run on pairs as one HTML page."""

import pathlib

from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.pairs import datasets
from mrl_jax.report import measurements
from mrl_jax.report import page as page_lib
from mrl_jax.report import pairs
from mrl_jax.stages import config as config_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import read_metrics


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.report / 'index.html']


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes report/index.html from what evaluate has written."""
  dims, widths = tuple(config.nesting_dims), config_lib.measured_dims(config)
  sets = [
    _read(workdir.evaluation / f'{datasets.parse(text).name}.json', checkpoint)
    for text in config.eval_sets
  ]
  if not sets:
    raise ValueError('report: eval_sets is empty, so there is nothing to show')
  sections = [
    pairs.quality(sets, widths, dims),
    *pairs.searches(sets, dims),
    measurements.training(read_metrics(workdir.metrics), dims),
    measurements.settings(workdir.config),
  ]
  page = page_lib.render(
    f'{config.name}: images and texts in one nested space',
    pairs.headline(workdir.config, sets[0], dims, checkpoint.step),
    sections,
    footer='',
  )
  path = workdir.report / 'index.html'
  with files.replacing(path) as temporary:
    temporary.write_text(page, encoding='utf-8')
  terminal.say(f'report: {path}, {len(page) / 1e6:.1f} MB')


def _read(path: pathlib.Path, checkpoint: Checkpoint) -> pairs.Record:
  record = checksums.read(path, 'delete it and run --mode=evaluate').record
  record = files.checked(record, str(path), pairs.Record)
  if not checkpoint.has_made(record):
    raise ValueError(f'{path} is of another checkpoint: run --mode=evaluate')
  return record
