"""Slimmable networks (arXiv 1812.08928), the baseline that MRL is held against.

One set of weights is trained to work at several widths, where a width is a
share of the channels of every layer; an embedding of width m comes from the
network of m / D of the channels. Each width has BatchNorms of its own.
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
  """The ResNet of `dim / num_features` of the channels.

  Raises ValueError where that is no whole number of them in some stage.
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
  """Raises ValueError if there is no such `SlimmableClassifier`."""
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
  """A classifier that trains by the networks inside of it.

  The loss at width m is that of the network of m / D of the channels: the
  leading ones of each kernel, and the leading m rows of the shared classifier.
  The full network, which is all that evaluation and export look at, is a plain
  `Classifier`: its prefixes are what the paper's tables call Slim. Net.
  """

  def __init__(self, *args, rngs: nnx.Rngs, **kwargs):
    """Arguments are those of `Classifier`.

    Raises ValueError for another encoder than a ResNet, another head than
    `mrl_e`, and dims that no network has, see `validate`.
    """
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
      conv.kernel = None  # Theirs are parts of the full network's.
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
    """As `Classifier.loss`, each width by its own network."""
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
    """By the leading channels of the full network's kernels.

    They are lent for the call, so that no copy stays among the parameters.
    """
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
  """In the order of their paths, the same in networks of all widths."""
  for _, module in nnx.iter_modules(network):
    if isinstance(module, nnx.Conv):
      yield module
