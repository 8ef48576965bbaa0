"""Slimmable networks (arXiv 1812.08928), a baseline of the MRL paper.

One set of weights is trained to work at several shares of the channels of every
layer: the embedding of width m comes from the network with m / D of the
channels. Each of these networks has BatchNorms of its own.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax import losses
from mrl_jax import models
from mrl_jax.models import resnet


def narrowed(variant: resnet.Variant, dim: int) -> resnet.Variant:
  """The ResNet with `dim / num_features` of the channels.

  Raises ValueError if that is not a whole number in some stage.
  """
  full = variant.num_features
  if any(width * dim % full for width in variant.widths):
    raise ValueError(
      f'nesting_dims {dim}: a slimmable network of width {full} has stages of '
      f'{variant.widths} channels, whose {dim}/{full} must be whole numbers'
    )
  widths = tuple(width * dim // full for width in variant.widths)
  return dataclasses.replace(variant, widths=widths)


def validate(variant: Any, dims: Sequence[int], head: str) -> None:
  """Raises ValueError if `SlimmableClassifier` would refuse these."""
  if not isinstance(variant, resnet.Variant):
    raise ValueError('slimmable True: the encoder must be a ResNet')
  if variant.groups > 1:
    raise ValueError('slimmable True: the encoder must have no groups')
  if head != 'mrl_e':
    raise ValueError(
      f'head {head!r}: must be mrl_e with slimmable, whose classifier is shared'
    )
  if dims[-1] != variant.num_features:
    raise ValueError(
      f'nesting_dims {tuple(dims)}: the last must be {variant.num_features} '
      'with slimmable, the whole network'
    )
  for dim in dims:
    narrowed(variant, dim)


class SlimmableClassifier(models.Classifier):
  """A classifier whose loss comes from networks of several widths.

  The loss at width m is that of the network with m / D of the channels: the
  leading channels of each kernel, and the leading m rows of the shared
  classifier. Evaluation and export use the full network alone, as a plain
  `Classifier`, whose prefixes the paper's tables call Slim. Net.
  """

  def __init__(self, *args, rngs: nnx.Rngs, **kwargs):
    """Takes the arguments of `Classifier`; see `validate` for errors."""
    super().__init__(*args, rngs=rngs, **kwargs)
    dims = self.head.nesting_dims
    variant = getattr(self.encoder, 'variant', None)
    validate(variant, dims, self.head.kind)
    self.narrow = nnx.List(
      [self._network(narrowed(variant, dim), rngs) for dim in dims[:-1]]
    )

  def _network(self, variant: resnet.Variant, rngs: nnx.Rngs) -> resnet.ResNet:
    network = resnet.ResNet(
      variant,
      blurpool=self.encoder.blurpool,
      remat=self.encoder.remat,
      dtype=self.encoder.dtype,
      rngs=rngs,
    )
    for conv in _convolutions(network):
      conv.kernel = None  # A part of the full network's, see `_embed`.
    return network

  def loss(
    self,
    image_NHWC: jax.Array,
    label_N: jax.Array,
    *,
    key: jax.Array | None = None,
    weights_G: Sequence[float] | jax.Array | None = None,
    label_smoothing: float = 0.0,
  ) -> tuple[jax.Array, jax.Array]:
    """The same as `Classifier.loss`, with each width from its own network."""
    del key  # Nothing is random in a ResNet.
    logits = []
    for g, network in enumerate((*self.narrow, self.encoder)):
      kernel_mC, bias_C = self.head.weights(g)
      embedding_Nm = self._embed(network, image_NHWC)
      logits.append(embedding_Nm @ kernel_mC + bias_C[None])
    return losses.matryoshka_cross_entropy(
      jnp.stack(logits),
      label_N,
      weights_G=weights_G,
      label_smoothing=label_smoothing,
    )

  def _embed(self, network: resnet.ResNet, image_NHWC: jax.Array) -> jax.Array:
    """Embeds by the leading channels of the full network's kernels."""
    # Lent for the call alone, so that no copy stays among the parameters.
    if network is self.encoder:
      return network(image_NHWC)
    lent = list(_convolutions(network))
    whole = _convolutions(self.encoder)
    for conv, full in zip(lent, whole, strict=True):
      part = tuple(slice(size) for size in conv.kernel_shape)
      conv.kernel = nnx.Param(full.kernel[...][part])
    embedding_Nm = network(image_NHWC)
    for conv in lent:
      conv.kernel = None
    return embedding_Nm


def _convolutions(network: nnx.Module) -> Iterator[nnx.Conv]:
  """Yields convolutions by path, which is one order for all widths."""
  for _, module in nnx.iter_modules(network):
    if isinstance(module, nnx.Conv):
      yield module
