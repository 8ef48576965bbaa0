"""Gradients of a loss over a whole batch that is embedded part by part.

A contrastive loss compares all examples of a batch, so that its gradient is no
mean over parts. Gradient caching (Gao et al., 2021, arXiv 2101.06983) still
needs the activations of one part only: all parts are embedded without a
gradient, the loss is differentiated by the embeddings, and then each part is
embedded again and its embeddings' gradient taken back to the parameters.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import numpy as jnp

Arrays = Mapping[str, Any]
# (params, part of the batch, key) to embeddings with a row for each example.
Embed = Callable[[Arrays, Arrays, jax.Array], Any]
# (params, embeddings, batch) to the loss and further values.
Loss = Callable[[Arrays, Any, Arrays], tuple[jax.Array, Any]]


def gradient(
  embed: Embed,
  loss: Loss,
  params: Arrays,
  batch: Arrays,
  key: jax.Array,
  parts: int = 1,
) -> tuple[Arrays, Any]:
  """The gradient by the parameters, and the loss's further values.

  Args:
    embed: embeds a part of the batch; its key draws the dropout, the same in
      both passes.
    loss: the loss of the whole batch.
    params: the parameters.
    batch: arrays with N rows.
    key: embedding part i is given `fold_in(key, i)`.
    parts: divides N. A part has rows of every device, as a device holds
      consecutive rows: part i has the rows i, i + parts, i + 2 * parts, …
  """
  if parts == 1:

    def whole(params):
      embedded = embed(params, batch, jax.random.fold_in(key, 0))
      return loss(params, embedded, batch)

    return jax.grad(whole, has_aux=True)(params)
  batch_P = jax.tree.map(lambda x: _split(x, parts), batch)
  each_P = jnp.arange(parts), batch_P

  def embed_part(params, part):
    number, batch = part
    return embed(params, batch, jax.random.fold_in(key, number))

  embedded_P = jax.lax.map(lambda part: embed_part(params, part), each_P)
  (direct, by_embedding), values = jax.grad(loss, argnums=(0, 1), has_aux=True)(
    params, jax.tree.map(_join, embedded_P), batch
  )

  def backward(total, part_and_gradient):
    part, by_part = part_and_gradient
    _, pull = jax.vjp(lambda params: embed_part(params, part), params)
    return jax.tree.map(jnp.add, total, *pull(by_part)), None

  by_embedding_P = jax.tree.map(lambda x: _split(x, parts), by_embedding)
  total, _ = jax.lax.scan(backward, direct, (each_P, by_embedding_P))
  return total, values


def _split(x: jax.Array, parts: int) -> jax.Array:
  return jnp.swapaxes(x.reshape(len(x) // parts, parts, *x.shape[1:]), 0, 1)


def _join(x: jax.Array) -> jax.Array:
  """Undoes `_split`."""
  x = jnp.swapaxes(x, 0, 1)
  return x.reshape(-1, *x.shape[2:])
