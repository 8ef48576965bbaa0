"""A trained text encoder, restored from a workdir's checkpoint."""

from ml_collections import ConfigDict

from mrl_jax.data.text.tokens import Tokens
from mrl_jax.stages import recorded
from mrl_jax.stages import trained
from mrl_jax.stages.text import build
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


def restore(
  config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint, tokens: Tokens
) -> trained.Trained:
  """Restores the model of a checkpoint, see `stages.trained.restore`."""
  there = recorded.read(workdir)
  num_classes = len(there.class_names) if there else 0
  size = tokens.vocabulary_size
  make = lambda: build.model(config, workdir, size, num_classes)
  return trained.restore_made(config, workdir, checkpoint, make)
