"""ResNet v1.5 (arXiv 1512.03385; the stride sits in the 3x3 convolution)."""

import dataclasses

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import encoder
from mrl_jax.models import initializers
from mrl_jax.models.batch_norm import BatchNorm


@dataclasses.dataclass(frozen=True)
class Variant:
  """What tells one ResNet from another.

  Attributes:
    depths: blocks in each stage.
    widths: channels inside the blocks of each stage.
    bottleneck: 1x1, 3x3, 1x1 blocks of four times the width, else two 3x3.
    small_image: a 3x3 stem without pooling, for images of about 32 pixels.
  """

  depths: tuple[int, ...]
  widths: tuple[int, ...] = (64, 128, 256, 512)
  bottleneck: bool = True
  small_image: bool = False

  @property
  def num_features(self) -> int:
    return self.widths[-1] * (4 if self.bottleneck else 1)


VARIANTS = {
  'resnet8': Variant((1, 1, 1), (16, 32, 64), False, small_image=True),
  'resnet20': Variant((3, 3, 3), (16, 32, 64), False, small_image=True),
  'resnet18': Variant((2, 2, 2, 2), bottleneck=False),
  'resnet34': Variant((3, 4, 6, 3), bottleneck=False),
  'resnet50': Variant((3, 4, 6, 3)),
  'resnet101': Variant((3, 4, 23, 3)),
  'resnet152': Variant((3, 8, 36, 3)),
}


class Conv(nnx.Module):
  """Bias-free convolution with torch's padding and an optional blur before it.

  The blur is BlurPool's (arXiv 1904.11486) as the MRL recipe uses it: a fixed
  3x3 binomial filter in front of every strided convolution with at least 16
  input channels.
  """

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    size: int,
    stride: int = 1,
    *,
    blurpool: bool,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    self.blurs = blurpool and stride > 1 and in_channels >= 16
    self.conv = nnx.Conv(
      in_channels,
      out_channels,
      (size, size),
      strides=stride,
      padding=size // 2,
      use_bias=False,
      dtype=dtype,
      kernel_init=initializers.kaiming_normal,
      rngs=rngs,
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.conv(_blur(x) if self.blurs else x)


def _blur(x: jax.Array) -> jax.Array:
  """Convolves each channel with [1 2 1]^T [1 2 1] / 16, zeros outside."""
  channels = x.shape[-1]
  filter_3 = jnp.array([1, 2, 1], x.dtype) / 4
  kernel = jnp.broadcast_to(
    jnp.outer(filter_3, filter_3)[:, :, None, None], (3, 3, 1, channels)
  )
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=channels,
  )


class Downsample(nnx.Module):
  """The projection on a block's shortcut, where its shape changes."""

  def __init__(self, in_channels, out_channels, stride, *, conv, rngs):
    self.conv = Conv(in_channels, out_channels, 1, stride, **conv, rngs=rngs)
    self.norm = BatchNorm(out_channels, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.norm(self.conv(x))


def _downsample(in_channels, out_channels, stride, *, conv, rngs):
  if stride == 1 and in_channels == out_channels:
    return None
  return Downsample(in_channels, out_channels, stride, conv=conv, rngs=rngs)


class BasicBlock(nnx.Module):
  """Two 3x3 convolutions, added to the shortcut."""

  def __init__(self, in_channels, width, stride, *, conv, rngs):
    self.conv1 = Conv(in_channels, width, 3, stride, **conv, rngs=rngs)
    self.bn1 = BatchNorm(width, rngs=rngs)
    self.conv2 = Conv(width, width, 3, **conv, rngs=rngs)
    self.bn2 = BatchNorm(width, rngs=rngs)
    self.downsample = _downsample(
      in_channels, width, stride, conv=conv, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    shortcut = x if self.downsample is None else self.downsample(x)
    x = nnx.relu(self.bn1(self.conv1(x)))
    return nnx.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nnx.Module):
  """1x1, 3x3 and 1x1 convolutions, added to the shortcut."""

  def __init__(self, in_channels, width, stride, *, conv, rngs):
    out_channels = 4 * width
    self.conv1 = Conv(in_channels, width, 1, **conv, rngs=rngs)
    self.bn1 = BatchNorm(width, rngs=rngs)
    self.conv2 = Conv(width, width, 3, stride, **conv, rngs=rngs)
    self.bn2 = BatchNorm(width, rngs=rngs)
    self.conv3 = Conv(width, out_channels, 1, **conv, rngs=rngs)
    self.bn3 = BatchNorm(out_channels, rngs=rngs)
    self.downsample = _downsample(
      in_channels, out_channels, stride, conv=conv, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    shortcut = x if self.downsample is None else self.downsample(x)
    x = nnx.relu(self.bn1(self.conv1(x)))
    x = nnx.relu(self.bn2(self.conv2(x)))
    return nnx.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(encoder.Encoder):
  """Images to embeddings: stem, stages, global average pooling.

  Parameters are float32; `dtype` is that of the convolutions. Stages: `stem`
  and `layer1`, `layer2`, …, of activations [N, h, w, C].
  """

  def __init__(
    self,
    variant: Variant,
    *,
    blurpool: bool = False,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.variant = variant
    self.num_features = variant.num_features
    self.blurpool = blurpool
    self.remat = remat
    self.dtype = dtype
    conv = {'blurpool': blurpool, 'dtype': dtype}
    channels = variant.widths[0]
    stem = {'size': 3} if variant.small_image else {'size': 7, 'stride': 2}
    self.conv1 = Conv(3, channels, **stem, **conv, rngs=rngs)
    self.bn1 = BatchNorm(channels, rngs=rngs)
    block = Bottleneck if variant.bottleneck else BasicBlock
    for stage, (depth, width) in enumerate(
      zip(variant.depths, variant.widths, strict=True), start=1
    ):
      blocks = []
      for index in range(depth):
        stride = 2 if stage > 1 and index == 0 else 1
        blocks.append(block(channels, width, stride, conv=conv, rngs=rngs))
        channels = width * (4 if variant.bottleneck else 1)
      setattr(self, f'layer{stage}', nnx.List(blocks))
    numbers = range(1, len(variant.depths) + 1)
    self.stage_names = ('stem', *(f'layer{i}' for i in numbers))

  def _run(self, name: str, x: jax.Array, key: jax.Array | None) -> jax.Array:
    del key  # Nothing is random here.
    if name == 'stem':
      return self._stem(x)
    for block in getattr(self, name):
      x = encoder.run_block(block, x, remat=self.remat)
    return x

  def _stem(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.bn1(self.conv1(x)))
    if not self.variant.small_image:
      # Torch's padding; 'SAME' would pad only on one side.
      x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return x

  def _pool(self, x: jax.Array) -> jax.Array:
    # The barrier keeps XLA's CPU backend from fusing the mean into the last
    # block, which from jaxlib 0.11.2 on gives NaN in bfloat16.
    x = jax.lax.optimization_barrier(x)
    return x.mean((1, 2), dtype=jnp.float32)
