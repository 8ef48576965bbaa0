"""Encoders and heads, by name."""

from collections.abc import Sequence
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax import values
from mrl_jax.models import convnext
from mrl_jax.models import geometry
from mrl_jax.models import heads
from mrl_jax.models import resnet
from mrl_jax.models import vit
from mrl_jax.models.encoder import Encoder

ENCODERS = {**resnet.VARIANTS, **convnext.VARIANTS, **vit.VARIANTS}


def num_features(name: str) -> int:
  """Width of the named encoder's embedding; ValueError for another name."""
  if not isinstance(name, str) or name not in ENCODERS:
    raise ValueError(
      f'encoder {values.shown(name)}: must be one of {tuple(ENCODERS)}'
    )
  return ENCODERS[name].num_features


@checks.takes(
  image_size=checks.whole(),
  blurpool=checks.truth,
  drop_path=checks.number(),
)
def validate(
  name: str,
  *,
  image_size: int,
  blurpool: bool = False,
  drop_path: float = 0.0,
  **traits,
) -> None:
  """Raises ValueError if `create` would refuse these arguments."""
  num_features(name)
  variant = geometry.changed(ENCODERS[name], **traits)
  is_resnet = isinstance(variant, resnet.Variant)
  if blurpool and not is_resnet:
    raise ValueError(f'blurpool {blurpool}: {name} has nothing to blur')
  if blurpool and variant.blur_activations:
    raise ValueError(f'blurpool {blurpool}: {name} blurs its activations')
  if not 0 <= drop_path < 1:
    raise ValueError(f'drop_path {drop_path}: must be in [0, 1)')
  if drop_path and is_resnet:
    raise ValueError(f'drop_path {drop_path}: must be 0 for {name}')
  if isinstance(variant, vit.Variant) and image_size % variant.patch:
    raise ValueError(
      f'image_size {image_size}: must be a multiple of {variant.patch}, the '
      f'side of the patches of {name}'
    )


@checks.takes(
  remat=checks.truth,
  dtype=checks.dtype('float32', 'bfloat16', 'float16'),
)
def create(
  name: str,
  *,
  image_size: int = 224,
  blurpool: bool = False,
  drop_path: float = 0.0,
  remat: bool = False,
  dtype: jnp.dtype = jnp.float32,
  rngs: nnx.Rngs,
  **traits,
) -> Encoder:
  """Creates an encoder: float images [N, H, W, 3] to float32 embeddings [N, D].

  Args:
    name: a key of `ENCODERS`.
    image_size: side of the images in pixels, for which a transformer's position
      embeddings are made; the other encoders take any size.
    blurpool: whether to blur before strided convolutions (ResNets).
    drop_path: share of the examples, drawn at random, for which training skips
      the last block; earlier blocks have less (ConvNeXt and transformers).
    remat: whether to compute activations inside blocks again in the backward
      pass, which saves memory.
    dtype: dtype of the computation; parameters are float32.
    rngs: the `params` stream initialises the parameters.
    **traits: changes to the encoder's geometry, see `geometry.changed`.

  Returns:
    A module whose attribute `num_features` is the width D.

  Raises:
    ValueError: an unknown name, or an option that the encoder cannot have.
  """
  validate(
    name,
    image_size=image_size,
    blurpool=blurpool,
    drop_path=drop_path,
    **traits,
  )
  variant = geometry.changed(ENCODERS[name], **traits)
  options = {'remat': remat, 'dtype': dtype, 'rngs': rngs}
  if isinstance(variant, resnet.Variant):
    return resnet.ResNet(variant, blurpool=blurpool, **options)
  if isinstance(variant, convnext.Variant):
    return convnext.ConvNeXt(variant, drop_path=drop_path, **options)
  return vit.ViT(variant, image_size=image_size, drop_path=drop_path, **options)


class Classifier(nnx.Module):
  """An encoder and its nested heads."""

  def __init__(
    self,
    encoder: str | nnx.Module,
    nesting_dims: Sequence[int],
    num_classes: int,
    *,
    head: Literal['mrl', 'mrl_e', 'fixed', 'none'] = 'mrl',
    dtype: jnp.dtype = jnp.float32,
    loss_kernel: Literal['xla', 'pallas'] = 'xla',
    rngs: nnx.Rngs,
    **encoder_options,
  ):
    """Takes the arguments of `MatryoshkaHead`, and an encoder.

    `encoder` is a name, with options for `create`, or a module that `create`
    returned. `head` is `none` for an encoder that only embeds.
    """
    if isinstance(encoder, str):
      encoder = create(encoder, dtype=dtype, rngs=rngs, **encoder_options)
    self.encoder = encoder
    dims = nesting.validate(nesting_dims, encoder.num_features)
    if head == 'none':
      self.head = None
      return
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

  def loss(
    self,
    image_NHWC: jax.Array,
    label_N: jax.Array,
    *,
    key: jax.Array | None = None,
    weights_G: Sequence[float] | jax.Array | None = None,
    label_smoothing: float = 0.0,
  ) -> tuple[jax.Array, jax.Array]:
    """The summed loss, which training minimises, and each granularity's.

    `key` draws the blocks that the encoder skips; `MatryoshkaHead.loss`
    describes the other arguments.
    """
    return self.head.loss(
      self.encoder(image_NHWC, key=key),
      label_N,
      weights_G=weights_G,
      label_smoothing=label_smoothing,
    )
