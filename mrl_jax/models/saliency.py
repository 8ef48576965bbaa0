"""Where a trained model looks: Grad-CAM of each width, attention rollout."""

import math
from typing import NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import Classifier


class Saliency(NamedTuple):
  """What each width says of each image, and why.

  Attributes:
    heat_GNhw: in [0, 1], at the resolution of the last stage; all 0 where
      nothing speaks for the class.
    class_GN: explained; that which the width predicts, unless one was given.
    probability_GN: of the class.
  """

  heat_GNhw: jax.Array
  class_GN: jax.Array
  probability_GN: jax.Array


def explain(
  model: Classifier, image_NHWC: jax.Array
) -> tuple[Saliency, jax.Array | None]:
  """Grad-CAM of each width, and of a transformer attention rollout, too."""
  rollout_Nhw = None
  if hasattr(model.encoder, 'blocks'):
    rollout_Nhw = attention_rollout(model.encoder, image_NHWC)
  return grad_cam(model, image_NHWC), rollout_Nhw


def grad_cam(
  model: Classifier, image_NHWC: jax.Array, class_N: jax.Array | None = None
) -> Saliency:
  """Grad-CAM of every width (arXiv 1610.02391), from one pass forward.

  Then one backward for each width, all images at once, from the logits to the
  last stage's activations: nothing goes below them. A transformer's last stage
  hands on the class token alone, so there it is the one before: backward
  through one block, to the tokens of the patches.

  Args:
    model: in evaluation mode.
    image_NHWC: float, normalised.
    class_N: int32, explained at every width; None: what each width predicts.
  """
  names = model.encoder.stage_names
  features = model.encoder.features(image_NHWC)
  stage = names[-1] if features[names[-1]].ndim == 4 else names[-2]
  activation = features[stage]
  logits_GNC, pull_back = jax.vjp(
    lambda x: model.head(model.encoder.from_features(x, stage)), activation
  )
  G, N, C = logits_GNC.shape
  if class_N is None:
    class_GN = logits_GNC.argmax(-1)
  else:
    class_GN = jnp.broadcast_to(class_N[None], (G, N))
  # The images share no activation, so that one pull-back serves them all.
  wanted_GNC = jax.nn.one_hot(class_GN, C, dtype=logits_GNC.dtype)

  def heat_of(g):
    cotangent_GNC = jnp.zeros_like(logits_GNC).at[g].set(wanted_GNC[g])
    (gradient,) = pull_back(cotangent_GNC)
    return class_activation(_as_map(activation), _as_map(gradient))

  heat_GNhw = jax.lax.map(heat_of, jnp.arange(G))
  probability_GN = (jax.nn.softmax(logits_GNC) * wanted_GNC).sum(-1)
  return Saliency(heat_GNhw, class_GN.astype(jnp.int32), probability_GN)


def attention_rollout(encoder: nnx.Module, image_NHWC: jax.Array) -> jax.Array:
  """What a transformer's class token gathers from each patch, [N, h, w].

  Attention rollout (arXiv 2005.00928): the attention of each block, the mean of
  its heads and of the identity for its shortcut, multiplied from the first to
  the last. It knows neither class nor width. Scaled so that its largest is 1.

  Args:
    encoder: has `blocks`, each with `norm1`, `qkv` and `num_heads`, that follow
      the stage `embed`, of tokens [N, 1 + patches, D] with the class token
      first; in evaluation mode.
    image_NHWC: float, normalised.
  """
  features = encoder.features(image_NHWC)
  rollout_NTT = None
  # What goes into a block is what the stage before it gave.
  for name, block in zip(encoder.stage_names, encoder.blocks, strict=False):
    token_NTD = features[name]
    N, T, D = token_NTD.shape
    shape = (N, T, 3, block.num_heads, D // block.num_heads)
    qkv = block.qkv(block.norm1(token_NTD)).reshape(shape)
    query, key = qkv[:, :, 0], qkv[:, :, 1]
    logits = jnp.einsum(
      'nthd,nshd->nhts', query, key, preferred_element_type=jnp.float32
    )
    attention_NTT = jax.nn.softmax(logits / math.sqrt(shape[-1])).mean(1)
    attention_NTT = (attention_NTT + jnp.eye(T)[None]) / 2
    if rollout_NTT is None:
      rollout_NTT = attention_NTT
    else:
      rollout_NTT = attention_NTT @ rollout_NTT
  heat_NhwK = _as_map(rollout_NTT[:, 0, :, None])
  heat_Nhw = heat_NhwK[..., 0]
  return heat_Nhw / heat_Nhw.max((1, 2), keepdims=True)


def class_activation(
  activation_NhwK: jax.Array, gradient_NhwK: jax.Array
) -> jax.Array:
  """Activations weighted by their mean gradients, their positive part, [N,h,w].

  Scaled for each image, so that its largest is 1; all 0 if nothing is positive.
  """
  weight_N11K = gradient_NhwK.mean((1, 2), keepdims=True)
  heat_Nhw = jax.nn.relu((activation_NhwK * weight_N11K).sum(-1))
  most_N11 = heat_Nhw.max((1, 2), keepdims=True)
  return heat_Nhw / jnp.where(most_N11 > 0, most_N11, 1)


def _as_map(x: jax.Array) -> jax.Array:
  """In float32 [N, h, w, K]; of tokens, the patches without the class token."""
  x = x.astype(jnp.float32)
  if x.ndim == 3:
    side = math.isqrt(x.shape[1] - 1)
    x = x[:, 1:].reshape(len(x), side, side, -1)
  return x
