"""Encoders and heads, by name."""

from collections.abc import Sequence
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax import nesting
from mrl_jax.models import heads
from mrl_jax.models import resnet

ENCODERS = {**resnet.VARIANTS}


def num_features(name: str) -> int:
  """Width of the named encoder's embedding; ValueError for another name."""
  if name not in ENCODERS:
    raise ValueError(f'encoder {name!r}: must be one of {tuple(ENCODERS)}')
  return ENCODERS[name].num_features


def create(
  name: str,
  *,
  blurpool: bool = False,
  dtype: jnp.dtype = jnp.float32,
  rngs: nnx.Rngs,
) -> nnx.Module:
  """An encoder: float images [N, H, W, 3] to float32 embeddings [N, D].

  Args:
    name: a key of `ENCODERS`; ValueError for another.
    blurpool: blur before strided convolutions (ResNets).
    dtype: of the computation; parameters are float32.
    rngs: the `params` stream initialises the parameters.

  Returns:
    A module with the attribute `num_features`, the width D.
  """
  num_features(name)
  return resnet.ResNet(
    ENCODERS[name], blurpool=blurpool, dtype=dtype, rngs=rngs
  )


class Classifier(nnx.Module):
  """An encoder and its nested heads."""

  def __init__(
    self,
    encoder_name: str,
    nesting_dims: Sequence[int],
    num_classes: int,
    *,
    head: Literal['mrl', 'mrl_e', 'fixed'] = 'mrl',
    blurpool: bool = False,
    dtype: jnp.dtype = jnp.float32,
    loss_kernel: Literal['xla', 'pallas'] = 'xla',
    rngs: nnx.Rngs,
  ):
    dims = nesting.validate(nesting_dims, num_features(encoder_name))
    self.encoder = create(
      encoder_name, blurpool=blurpool, dtype=dtype, rngs=rngs
    )
    self.head = heads.MatryoshkaHead(
      dims,
      num_classes,
      kind=head,
      dtype=dtype,
      loss_kernel=loss_kernel,
      rngs=rngs,
    )

  def __call__(self, image_NHWC: jax.Array) -> jax.Array:
    """Float images [N, H, W, 3] to float32 logits [G, N, C]."""
    return self.head(self.encoder(image_NHWC))
