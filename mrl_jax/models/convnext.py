"""ConvNeXt (arXiv 2201.03545)."""

import dataclasses

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import encoder
from mrl_jax.models import initializers


@dataclasses.dataclass(frozen=True)
class Variant:
  """The geometry of a ConvNeXt.

  Attributes:
    depths: number of blocks in each stage.
    widths: channels of each stage.
  """

  depths: tuple[int, ...] = (3, 3, 27, 3)
  widths: tuple[int, ...] = (96, 192, 384, 768)

  @property
  def num_features(self) -> int:
    return self.widths[-1]


VARIANTS = {
  'convnext_atto': Variant((2, 2, 6, 2), (40, 80, 160, 320)),
  'convnext_femto': Variant((2, 2, 6, 2), (48, 96, 192, 384)),
  'convnext_pico': Variant((2, 2, 6, 2), (64, 128, 256, 512)),
  'convnext_nano': Variant((2, 2, 8, 2), (80, 160, 320, 640)),
  'convnext_tiny': Variant((3, 3, 9, 3)),
  'convnext_small': Variant(),
  'convnext_base': Variant(widths=(128, 256, 512, 1024)),
  'convnext_large': Variant(widths=(192, 384, 768, 1536)),
  'convnext_xlarge': Variant(widths=(256, 512, 1024, 2048)),
}


def _conv(in_channels, out_channels, size, *, dtype, rngs, **kwargs):
  return nnx.Conv(
    in_channels,
    out_channels,
    (size, size),
    kernel_init=initializers.normal_002,
    dtype=dtype,
    rngs=rngs,
    **kwargs,
  )


class Block(nnx.Module):
  """A residual block: depthwise 7x7 convolution and two-layer perceptron."""

  def __init__(self, width, *, index, drop_path, dtype, rngs):
    self.index = index
    self.drop_path = drop_path
    self.dtype = dtype
    linear = lambda a, b: nnx.Linear(
      a, b, kernel_init=initializers.normal_002, dtype=dtype, rngs=rngs
    )
    self.depthwise = _conv(
      width,
      width,
      7,
      padding=3,
      feature_group_count=width,
      dtype=dtype,
      rngs=rngs,
    )
    self.norm = encoder.layer_norm(width, dtype, rngs)
    self.fc1 = linear(width, 4 * width)
    self.fc2 = linear(4 * width, width)
    self.layer_scale = nnx.Param(jnp.full((width,), 1e-6))

  def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Activations [N, h, w, C] to the same shape."""
    if key is not None:
      key = jax.random.fold_in(key, self.index)
    hidden = nnx.gelu(self.fc1(self.norm(self.depthwise(x))), approximate=False)
    scale = self.layer_scale[...].astype(self.dtype).reshape(1, 1, 1, -1)
    return x + encoder.drop_path(self.fc2(hidden) * scale, self.drop_path, key)


class Stem(nnx.Module):
  """Turns 4x4 patches into channels, and normalises them."""

  def __init__(self, width, *, dtype, rngs):
    self.conv = _conv(
      3, width, 4, strides=4, padding='VALID', dtype=dtype, rngs=rngs
    )
    self.norm = encoder.layer_norm(width, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.norm(self.conv(x))


class Downsample(nnx.Module):
  """Halves height and width between stages."""

  def __init__(self, in_channels, width, *, dtype, rngs):
    self.norm = encoder.layer_norm(in_channels, dtype, rngs)
    self.conv = _conv(
      in_channels, width, 2, strides=2, padding='VALID', dtype=dtype, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.conv(self.norm(x))


class ConvNeXt(encoder.Encoder):
  """A ConvNeXt: stem, stages, mean over pixels, then a norm.

  The stages are `stem`, `stage1`, `stage2`, …, of activations [N, h, w, C].
  """

  def __init__(
    self,
    variant: Variant,
    *,
    drop_path: float = 0.0,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.num_features = variant.num_features
    self.remat = remat
    self.dtype = dtype
    numbers = range(1, len(variant.depths) + 1)
    self.stage_names = ('stem', *(f'stage{i}' for i in numbers))
    make = {'dtype': dtype, 'rngs': rngs}
    channels = variant.widths[0]
    self.stem = Stem(channels, **make)
    rates = encoder.drop_rates(drop_path, sum(variant.depths))
    for number, depth, width in zip(
      numbers, variant.depths, variant.widths, strict=True
    ):
      if number > 1:
        downsample = Downsample(channels, width, **make)
        setattr(self, f'downsample{number}', downsample)
      first = sum(variant.depths[: number - 1])
      blocks = nnx.List(
        Block(width, index=i, drop_path=rates[i], **make)
        for i in range(first, first + depth)
      )
      setattr(self, f'stage{number}', blocks)
      channels = width
    self.norm = encoder.layer_norm(channels, jnp.float32, rngs)

  def _run(self, name: str, x: jax.Array, key: jax.Array | None) -> jax.Array:
    if name == 'stem':
      return self.stem(x)
    if name != 'stage1':
      x = getattr(self, name.replace('stage', 'downsample'))(x)
    for block in getattr(self, name):
      x = encoder.run_block(block, x, key, remat=self.remat)
    return x

  def _pool(self, x: jax.Array) -> jax.Array:
    return self.norm(x.mean((1, 2), dtype=jnp.float32))
