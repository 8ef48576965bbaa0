"""The stages of an experiment, in the order in which they feed each other."""

from collections.abc import Sequence
import os
import time

import jax
from ml_collections import ConfigDict

from mrl_jax import workdir as workdir_lib
from mrl_jax import writer
from mrl_jax.stages import check
from mrl_jax.stages import embed
from mrl_jax.stages import evaluate
from mrl_jax.stages import report
from mrl_jax.stages import retrieve
from mrl_jax.stages import train

STAGES = {
  'train': train.run,
  'evaluate': evaluate.run,
  'embed': embed.run,
  'retrieve': retrieve.run,
  'report': report.run,
}


def run(config: ConfigDict, path: str, modes: Sequence[str]) -> None:
  """Runs the stages named by `modes` that are not finished in the workdir.

  Raises ValueError, before anything is written, for an unknown stage or a
  config that cannot work.
  """
  for mode in modes:
    if mode not in STAGES:
      raise ValueError(f'stage {mode!r}: must be one of {tuple(STAGES)}')
  check.check(config)
  workdir = workdir_lib.Workdir(path, config.to_dict())
  _use_compilation_cache()
  for mode in modes:
    if workdir.is_finished(mode):
      writer.say(f'{mode}: already finished in {workdir.path}, skipped')
      continue
    writer.say(f'{mode}: {config.name} in {workdir.path}')
    start = time.perf_counter()
    STAGES[mode](config, workdir)
    seconds = time.perf_counter() - start
    if not jax.process_index():
      workdir.mark_finished(mode, seconds)
    writer.say(f'{mode}: finished in {seconds:.1f} s')


def _use_compilation_cache() -> None:
  """Compiled programs outlive the process, unless JAX was told otherwise."""
  if jax.config.jax_compilation_cache_dir is None:
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    jax.config.update(
      'jax_compilation_cache_dir', os.path.join(cache, 'mrl_jax', 'xla')
    )
