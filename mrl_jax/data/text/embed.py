"""Embeds texts with a jitted step, in few shapes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mrl_jax.data.batches import evaluation
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.training import inference
from mrl_jax.training import sharding

Arrays = Mapping[str, Any]


class TextEmbedder:
  """Embeds texts on the devices of a mesh; equal texts are embedded once."""

  def __init__(
    self,
    step: Callable[[Arrays, Arrays, Arrays], jax.Array],
    tokens: Tokens,
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int,
  ):
    """Takes what `text_step.make_embed_step` returned, and the tokenizer."""
    self._step, self._tokens, self._mesh = step, tokens, mesh
    self._batch_size = batch_size

  def __call__(
    self, params: Arrays, batch_stats: Arrays, texts: Sequence[str]
  ) -> np.ndarray:
    """The embeddings of the texts, float32 [N, D].

    Texts of about one length are in a batch together, so that little is
    padded.
    """
    number: dict[str, int] = {}
    place_N = [number.setdefault(text, len(number)) for text in texts]
    ids = self._tokens.ids(list(number))
    order_U = np.argsort([len(row) for row in ids], kind='stable')
    batches = self._batches(ids, order_U)
    outputs = (self._step(params, batch_stats, batch) for batch in batches)
    found = map(sharding.to_host, inference.one_behind(outputs))
    rows_UD = np.concatenate(list(found))[: len(ids)]
    embedding_UD = np.empty_like(rows_UD)
    embedding_UD[order_U] = rows_UD
    return embedding_UD[place_N]

  def _batches(self, ids, order_U):
    size = evaluation.padded_size(self._batch_size, len(ids), self._mesh)
    mine = np.array(sharding.local_rows(size, self._mesh))
    for start in range(0, len(ids), size):
      rows = [ids[i] for i in order_U[start : start + size]]
      rows += [[]] * (size - len(rows))
      token_NL, mask_NL = self._tokens.pad(rows)
      batch = {'token': token_NL, 'length': mask_NL.sum(1).astype(np.int32)}
      mine_only = {name: x[mine] for name, x in batch.items()}
      yield sharding.shard_batch(mine_only, self._mesh)
