"""Shows where a trained model looks: Grad-CAM and attention rollout."""

import math
from typing import NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import Classifier


class Saliency(NamedTuple):
  """A heatmap for the class predicted by every width on every image.

  Heatmaps are in [0, 1], at the resolution of the last stage; all 0 where
  nothing speaks for the class.
  """

  heat_GNhw: jax.Array
  class_GN: jax.Array
  probability_GN: jax.Array


def explain(
  model: Classifier, image_NHWC: jax.Array
) -> tuple[Saliency, jax.Array | None]:
  """Grad-CAM of every width; attention rollout [N, h, w] of a ViT, or None."""
  rollout_Nhw = None
  if hasattr(model.encoder, 'blocks'):
    rollout_Nhw = attention_rollout(model.encoder, image_NHWC)
  return grad_cam(model, image_NHWC), rollout_Nhw


def grad_cam(model: Classifier, image_NHWC: jax.Array) -> Saliency:
  """Grad-CAM of every width (arXiv 1610.02391).

  One forward pass serves all widths. Each width then has one backward pass for
  all images, from the logits to the last stage's activations and no further. A
  transformer's last stage only passes on the class token, so there the stage
  before it is explained, by a backward pass through one block. The model is in
  evaluation mode, and the images are normalised floats.
  """
  names = model.encoder.stage_names
  features = model.encoder.features(image_NHWC)
  stage = names[-1] if features[names[-1]].ndim == 4 else names[-2]
  activation = features[stage]
  logits_GNC, pull_back = jax.vjp(
    lambda x: model.head(model.encoder.from_features(x, stage)), activation
  )
  G, _, C = logits_GNC.shape
  class_GN = logits_GNC.argmax(-1)
  # Images share no activation, so that one pull-back serves all of them.
  wanted_GNC = jax.nn.one_hot(class_GN, C, dtype=logits_GNC.dtype)

  def heat_of(g):
    cotangent_GNC = jnp.zeros_like(logits_GNC).at[g].set(wanted_GNC[g])
    (gradient,) = pull_back(cotangent_GNC)
    return class_activation(_as_map(activation), _as_map(gradient))

  heat_GNhw = jax.lax.map(heat_of, jnp.arange(G))
  probability_GN = (jax.nn.softmax(logits_GNC) * wanted_GNC).sum(-1)
  return Saliency(heat_GNhw, class_GN.astype(jnp.int32), probability_GN)


def attention_rollout(encoder: nnx.Module, image_NHWC: jax.Array) -> jax.Array:
  """Attention rollout (arXiv 2005.00928) of the class token, [N, h, w].

  Multiplies the attention matrices of all blocks, each averaged over heads and
  then with the identity, which stands for the shortcut. The result shows how
  much the class token gathers from each patch, whatever the class and width.
  The largest value of each image is 1. The encoder is a `vit.ViT` in evaluation
  mode, and the images are normalised floats.
  """
  features = encoder.features(image_NHWC)
  rollout_NTT = None
  # A block's input is the output of the stage before it.
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
  heat_Nhw = _as_map(rollout_NTT[:, 0, :, None])[..., 0]
  return heat_Nhw / heat_Nhw.max((1, 2), keepdims=True)


def class_activation(
  activation_NhwK: jax.Array, gradient_NhwK: jax.Array
) -> jax.Array:
  """The positive part of activations weighted by mean gradients, [N, h, w].

  The largest value of each image is 1, or all are 0 if none is positive.
  """
  weight_N11K = gradient_NhwK.mean((1, 2), keepdims=True)
  heat_Nhw = jax.nn.relu((activation_NhwK * weight_N11K).sum(-1))
  most_N11 = heat_Nhw.max((1, 2), keepdims=True)
  return heat_Nhw / jnp.where(most_N11 > 0, most_N11, 1)


def _as_map(x: jax.Array) -> jax.Array:
  """Activations, or the patches' tokens, as a float32 map [N, h, w, K]."""
  x = x.astype(jnp.float32)
  if x.ndim == 3:
    side = math.isqrt(x.shape[1] - 1)
    x = x[:, 1:].reshape(len(x), side, side, -1)
  return x
