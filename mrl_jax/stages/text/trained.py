"""A trained text encoder, restored from a workdir's checkpoint."""

from flax import nnx
import jax
from ml_collections import ConfigDict

from mrl_jax.data.text.embed import TextEmbedder
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.stages import recorded
from mrl_jax.stages import trained
from mrl_jax.stages.text import build
from mrl_jax.training import sharding
from mrl_jax.training import text_step
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


def embedder(
  config: ConfigDict,
  graphdef: nnx.GraphDef,
  tokens: Tokens,
  mesh: jax.sharding.Mesh,
) -> TextEmbedder:
  """Embeds texts with a model's arrays, in batches of `eval_batch_size`."""
  return TextEmbedder(
    text_step.make_embed_step(graphdef, sharding=sharding.over_data(mesh)),
    tokens,
    mesh=mesh,
    batch_size=config.eval_batch_size,
  )
