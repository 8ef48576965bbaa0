"""Measures a trained text encoder on every evaluation set, at every width."""

import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax.data.text import eval_sets
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import set_results
from mrl_jax.stages.text import inputs
from mrl_jax.stages.text import measure as measure_lib
from mrl_jax.stages.text import trained as trained_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [eval_sets.parse(text).name for text in config.eval_sets]
  return set_results.outputs(workdir, names)


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes evaluation/<set>.md, .csv and .json, and prints a table of each.

  The metrics `<set>/<metric>@<width>`, in percent, are written to metrics.jsonl
  as well.
  """
  sets = inputs.open_sets(config)
  tokens = inputs.open_tokens(config, workdir)
  trained = trained_lib.restore(config, workdir, checkpoint, tokens)
  embedder = trained_lib.embedder(
    config, trained.graphdef, tokens, trained.mesh
  )
  embed = lambda texts: embedder(trained.params, trained.batch_stats, texts)
  widths, found = config_lib.measured_dims(config), {}
  for text_set in sets:
    values = measure_lib.measure(
      text_set,
      embed,
      widths,
      prompts=tuple(config.text.prompts),
      neighbors=config.knn,
      seed=config.seed,
    )
    found |= values
    if jax.process_index():
      continue
    record = {
      'set': text_set.name,
      'kind': text_set.kind,
      'first': len(text_set.first),
      'second': len(text_set.second),
      'widths': list(widths),
      'values': values,
    }
    said = f'{len(text_set.first):,} {_counted(text_set)}'
    set_results.write(workdir, checkpoint, record, said)
  inputs.say_truncated(tokens, 'evaluate')
  with MetricWriter(workdir.metrics) as writer:
    writer.replace(checkpoint.step, found)


def _counted(text_set: eval_sets.TextSet) -> str:
  if text_set.kind == 'retrieval':
    return f'queries in {len(text_set.second):,} documents'
  if text_set.kind == 'classification':
    return f'texts by {len(text_set.second):,} labelled ones'
  return 'texts' if text_set.kind == 'clustering' else 'pairs'
