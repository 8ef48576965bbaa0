"""Trained towers, restored from a checkpoint, and how they embed."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.sources.example import Source
from mrl_jax.data.text.embed import TextEmbedder
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.stages import inputs
from mrl_jax.stages import trained
from mrl_jax.stages.pairs import build
from mrl_jax.training import inference
from mrl_jax.training import pair_step
from mrl_jax.training import sharding
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir

Arrays = Mapping[str, Any]


def restore(
  config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint, tokens: Tokens
) -> trained.Trained:
  """Restores the towers of a checkpoint, see `stages.trained.restore`."""
  make = lambda: build.model(config, workdir, tokens.pad_id)
  return trained.restore_made(config, workdir, checkpoint, make)


class Embedder:
  """Embeds pictures and texts with the arrays of towers.

  Attributes:
    params: the towers' parameters, which `at` sets.
    batch_stats: their running statistics.
  """

  def __init__(
    self,
    config: ConfigDict,
    graphdef: nnx.GraphDef,
    tokens: Tokens,
    mesh: jax.sharding.Mesh,
    damage: DamageLog,
  ):
    """Takes towers without arrays; batches have `eval_batch_size` rows."""
    self._config, self._mesh, self._damage = config, mesh, damage
    self._image_step, text_step = pair_step.make_embed_steps(
      graphdef, inputs.normalize(config), sharding=sharding.over_data(mesh)
    )
    self._texts = TextEmbedder(
      text_step, tokens, mesh=mesh, batch_size=config.eval_batch_size
    )
    self.params: Arrays = {}
    self.batch_stats: Arrays = {}

  def at(self, params: Arrays, batch_stats: Arrays) -> 'Embedder':
    """Returns itself; it embeds with these arrays from now on."""
    self.params, self.batch_stats = params, batch_stats
    return self

  def images(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, D] and labels [N] of all pictures but damaged ones."""
    batches = inputs.evaluation_batches(
      self._config, source, self._mesh, self._damage
    )
    found = []
    outputs = (
      (
        self._image_step(self.params, self.batch_stats, batch),
        batch['label'],
        batch['mask'],
      )
      for batch in batches
    )
    for arrays in inference.one_behind(outputs):
      embedding_ND, label_N, mask_N = map(sharding.to_host, arrays)
      found.append((embedding_ND[mask_N], label_N[mask_N]))
    embedding_ND, label_N = map(np.concatenate, zip(*found, strict=True))
    if not len(label_N):
      raise ValueError(f'every picture of {source.folder} is damaged')
    return embedding_ND, label_N

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    """Embeddings [N, D] of texts."""
    return self._texts(self.params, self.batch_stats, texts)
