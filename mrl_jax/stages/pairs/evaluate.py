"""Measures trained towers on every evaluation set, at every width."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.pairs import datasets
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import set_results
from mrl_jax.stages.pairs import inputs
from mrl_jax.stages.pairs import measure as measure_lib
from mrl_jax.stages.pairs import shown as shown_lib
from mrl_jax.stages.pairs import trained as trained_lib
from mrl_jax.stages.text import inputs as text_inputs
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [datasets.parse(text).name for text in config.eval_sets]
  return set_results.outputs(workdir, names)


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes evaluation/<set>.md, .csv and .json, and prints a table of each.

  The metrics `<set>/<metric>@<width>` are written to metrics.jsonl as well:
  recalls and accuracies in percent, cosines as they are. The JSON file has
  searches by words and a map, too, at the first and the last width.
  """
  sets = inputs.open_sets(config)
  tokens = inputs.open_tokens(config, workdir)
  trained = trained_lib.restore(config, workdir, checkpoint, tokens)
  damage = DamageLog(config.max_damaged)
  embedder = trained_lib.Embedder(
    config, trained.graphdef, tokens, trained.mesh, damage
  ).at(trained.params, trained.batch_stats)
  widths, found = config_lib.measured_dims(config), {}
  for pair_set in sets:
    inputs.say_left_out(f'evaluate: {pair_set.name}', pair_set.source)
    measured = measure_lib.measure(pair_set, embedder, widths)
    found |= measured.values
    shown: dict[str, Any] = {'searches': {}, 'pictures': {}, 'map': {}}
    if measured.embedded is not None:
      ends = tuple(dict.fromkeys((config.nesting_dims[0], widths[-1])))
      shown = shown_lib.searches(
        pair_set,
        measured.embedded,
        embedder,
        ends,
        resize=config.eval_resize,
        size=config.eval_image_size,
      )
      shown['map'] = shown_lib.places(measured.embedded, ends)
    if jax.process_index():
      continue
    record = {
      'set': pair_set.name,
      'kind': pair_set.kind,
      'count': measured.count,
      'widths': list(widths),
      'values': measured.values,
      **shown,
    }
    said = f'{measured.count:,} pictures'
    set_results.write(workdir, checkpoint, record, said)
  if line := damage.report():
    terminal.say(line)
  text_inputs.say_truncated(tokens, 'evaluate')
  with MetricWriter(workdir.metrics) as writer:
    writer.replace(checkpoint.step, found)
