"""Writes the results of a text run as one HTML page."""

import pathlib

from ml_collections import ConfigDict

from mrl_jax.data.text import eval_sets
from mrl_jax.report import texts
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import set_results
from mrl_jax.stages.text import measure
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [set_results.page_path(workdir)]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes report/index.html from what evaluate has written."""
  dims, widths = tuple(config.nesting_dims), config_lib.measured_dims(config)
  names = [eval_sets.parse(text).name for text in config.eval_sets]
  records = set_results.read(workdir, checkpoint, names, texts.Record)
  sets = [
    texts.Measured(x, f'{x["set"]}/{measure.MAIN.get(x["kind"], "")}')
    for x in records
  ]
  set_results.write_page(
    config,
    workdir,
    'nested text embeddings',
    texts.headline(workdir.config, sets[0], dims, checkpoint.step),
    [texts.quality(sets, widths, dims)],
  )
