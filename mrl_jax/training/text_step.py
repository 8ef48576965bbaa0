"""The jitted training step of text encoders, and the step that embeds."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, Literal

from flax import nnx
import jax
from jax import numpy as jnp
import optax

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import negatives
from mrl_jax.models import packed
from mrl_jax.training import cached_gradient
from mrl_jax.training import trainable as trainable_lib
from mrl_jax.training.state import State
from mrl_jax.training.train_step import update

Arrays = Mapping[str, Any]
OBJECTIVES = (
  'contrastive',
  'cosent',
  'angle',
  'distillation',
  'classification',
)


@dataclasses.dataclass(frozen=True)
class Objective:
  """What a text encoder is trained for, at every prefix.

  Attributes:
    kind: `contrastive`: InfoNCE of pairs, over all keys of the batch; `cosent`
      and `angle`: the order of scored pairs; `distillation`: nearness to a
      teacher's vectors; `classification`: the nested heads on labelled texts.
    nesting_dims: prefix widths.
    temperature: divides the similarities.
    symmetric: see `losses.matryoshka_contrastive`.
    of_scores: the loss of batches of scored pairs, where `kind` is another.
    similarity_share: of distillation, the weight of
      `losses.matryoshka_similarity`, in [0, 1]; the rest is that of
      `losses.matryoshka_mse`.
    weights_G: the loss weight of each nesting dim.
    granularities_per_step: see `nesting.sample_weights`; 0 means all.
    label_smoothing: of classification.
  """

  kind: Literal[
    'contrastive', 'cosent', 'angle', 'distillation', 'classification'
  ]
  nesting_dims: tuple[int, ...]
  temperature: float = 0.05
  symmetric: bool = False
  of_scores: Literal['cosent', 'angle'] = 'cosent'
  similarity_share: float = 0.5
  weights_G: Any = None
  granularities_per_step: int = 0
  label_smoothing: float = 0.0

  def loss(
    self, model: nnx.Module, embedded: Arrays, batch: Arrays, weights_G: Any
  ) -> tuple[jax.Array, jax.Array]:
    """The loss of a whole batch, and that of each width.

    `embedded` has `query` [N, D] and, of pairs, `key` [N, K, D]. A batch with
    scores or a teacher's vectors has the loss of those, whatever the kind.
    """
    query_ND = embedded['query']
    if self.kind == 'classification':
      return model.head.loss(
        query_ND,
        batch['label'],
        weights_G=weights_G,
        label_smoothing=self.label_smoothing,
      )
    if 'teacher' in batch:
      return self._distilled(query_ND, batch['teacher'], weights_G)
    key_NKD = embedded['key']
    options = {
      'nesting_dims': self.nesting_dims,
      'temperature': self.temperature,
      'weights_G': weights_G,
    }
    if 'score' not in batch:
      # Column by column, so that the queries' own keys come first.
      key_MD = jnp.swapaxes(key_NKD, 0, 1).reshape(-1, key_NKD.shape[-1])
      return losses.matryoshka_contrastive(
        query_ND,
        key_MD,
        mask_NM=negatives.mask(batch['text']),
        symmetric=self.symmetric,
        **options,
      )
    ranked = {
      'cosent': losses.matryoshka_cosent,
      'angle': losses.matryoshka_angle,
    }
    name = self.kind if self.kind in ranked else self.of_scores
    return ranked[name](query_ND, key_NKD[:, 0], batch['score'], **options)

  def _distilled(self, query_ND, teacher_NE, weights_G):
    share, found = self.similarity_share, []
    dims, options = self.nesting_dims, {'weights_G': weights_G}
    if share < 1:
      mse = losses.matryoshka_mse(
        query_ND, teacher_NE, nesting_dims=dims, **options
      )
      found.append(jax.tree.map(lambda x: (1 - share) * x, mse))
    if share > 0:
      divergence = losses.matryoshka_similarity(
        query_ND,
        teacher_NE,
        nesting_dims=dims,
        temperature=self.temperature,
        **options,
      )
      found.append(jax.tree.map(lambda x: share * x, divergence))
    return jax.tree.map(lambda *x: sum(x), *found)


def make_text_step(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  objective: Objective,
  *,
  seed: int,
  trainable: Sequence[str] = (),
  schedule: optax.Schedule | None = None,
  parts: int = 1,
  sharding: Any = None,
) -> Callable[[State, Arrays], tuple[State, Arrays]]:
  """Returns the jitted `(state, batch) -> (state, metrics)`; donates `state`.

  The batches are those of `data.text.batches.TextBatches`; the metrics are
  those of `train_step.make_train_step`.

  Args:
    graphdef: the graph definition of a `models.Classifier` of a text encoder.
    optimizer: turns gradients into updates.
    objective: the loss.
    seed: seeds the dropout; the key of a step is `fold_in(key(seed), step)`.
    trainable: the patterns given to `state.create`.
    schedule: the learning rate, to be reported among the metrics.
    parts: number of parts in which a batch is embedded, which saves memory; the
      gradient is that of the whole batch (see `cached_gradient`).
    sharding: the sharding of the returned pair, or a tree of shardings.
  """
  G = len(objective.nesting_dims)
  all_weights_G = nesting.validate_weights(objective.weights_G, G)
  per_step = nesting.validate_per_step(objective.granularities_per_step, G)

  def text_step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    weights_G = nesting.sample_weights(key, all_weights_G, per_step)
    trained, frozen = trainable_lib.split(state.params, trainable)

    def model(trained):
      params = trainable_lib.merge(trained, frozen)
      return nnx.merge(graphdef, params, state.batch_stats)

    def embed(trained, part, key):
      return _embed_part(model(trained).encoder, part, key)

    def loss(trained, embedded, batch):
      loss, loss_G = objective.loss(model(trained), embedded, batch, weights_G)
      values = {
        'loss': jnp.dot(jnp.asarray(all_weights_G), loss_G),
        'loss_G': loss_G,
      }
      return loss, values

    # Far from the granularities' key.
    dropout_key = jax.random.fold_in(key, 2**31)
    grads, values = cached_gradient.gradient(
      embed, loss, trained, batch, dropout_key, parts
    )
    new_state, measured = update(
      optimizer, state, (trained, frozen), grads, state.batch_stats, schedule
    )
    return new_state, values | measured

  return jax.jit(text_step, donate_argnums=0, out_shardings=sharding)


def make_embed_step(
  graphdef: nnx.GraphDef, *, sharding: jax.sharding.Sharding | None = None
) -> Callable[[Arrays, Arrays, Arrays], jax.Array]:
  """Returns the jitted `(params, batch_stats, batch) -> embedding_ND`.

  The batch has `token`, int32 [N, L], and `length`, int32 [N].
  """

  def embed_step(params, batch_stats, batch):
    encoder = nnx.merge(graphdef, params, batch_stats).encoder
    token_NL = batch['token']
    return encoder(token_NL, packed.mask(token_NL, batch['length']))

  return jax.jit(embed_step, out_shardings=sharding)


def _embed_part(encoder, part: Arrays, key: jax.Array) -> Arrays:
  N, C = part['text'].shape
  embedding_SD = encoder.packed(part['token'], part['owner'], N * C, key=key)
  embedded = {'query': embedding_SD[:N]}
  if C > 1:
    key_KND = embedding_SD[N:].reshape(C - 1, N, -1)
    embedded['key'] = jnp.swapaxes(key_KND, 0, 1)
  return embedded
