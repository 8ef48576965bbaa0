"""Writes a trained text encoder as a folder that others load."""

import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.interop.text import hand_over
from mrl_jax.stages.text import inputs
from mrl_jax.stages.text import trained as trained_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.export / name for name in ('modules.json', 'checksums.json')]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes export/, which SentenceTransformer and `mrl_jax.load` open."""
  tokens = inputs.open_tokens(config, workdir)
  trained = trained_lib.restore(config, workdir, checkpoint, tokens)
  if jax.process_index():
    return
  prompts = tuple(config.text.prompts)
  named = {}
  if prompts:
    named = {'query': prompts[0], 'document': prompts[-1]}
  hand_over.write(
    workdir.export,
    trained.model.encoder,
    tokens,
    tuple(config.nesting_dims),
    prompts=named,
  )
  terminal.say(f'export: {workdir.export}')
