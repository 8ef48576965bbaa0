"""Writes the results of a run on pairs as one HTML page."""

import pathlib

from ml_collections import ConfigDict

from mrl_jax.data.pairs import datasets
from mrl_jax.report import pairs
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import set_results
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [set_results.page_path(workdir)]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes report/index.html from what evaluate has written."""
  dims, widths = tuple(config.nesting_dims), config_lib.measured_dims(config)
  names = [datasets.parse(text).name for text in config.eval_sets]
  sets = set_results.read(workdir, checkpoint, names, pairs.Record)
  set_results.write_page(
    config,
    workdir,
    'images and texts in one nested space',
    pairs.headline(workdir.config, sets[0], dims, checkpoint.step),
    [pairs.quality(sets, widths, dims), *pairs.searches(sets)],
  )
