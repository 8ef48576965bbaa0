"""The parts of a ResNet: convolutions, stems, shortcuts and blocks.

`variant` is the `resnet.Variant` of the network; `conv` makes a `Conv` with the
network's options.
"""

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import initializers
from mrl_jax.models.batch_norm import BatchNorm


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
    dilation: int = 1,
    groups: int = 1,
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
      padding=dilation * (size // 2),
      kernel_dilation=dilation,
      feature_group_count=groups,
      use_bias=False,
      dtype=dtype,
      kernel_init=initializers.kaiming_normal,
      rngs=rngs,
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.conv(blur(x) if self.blurs else x)


def blur(x: jax.Array) -> jax.Array:
  """Convolves each channel with [1 2 1]^T [1 2 1] / 16, zeros outside."""
  return _blur(x, stride=1, padding=1)


def blur_pool(x: jax.Array) -> jax.Array:
  """Blurs `x` [N, h, w, C] with reflected borders and takes every other pixel.

  timm's `BlurPool2d`, the antialiasing of its resnetblur50.
  """
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')
  return _blur(x, stride=2, padding=0)


def _blur(x: jax.Array, *, stride: int, padding: int) -> jax.Array:
  channels = x.shape[-1]
  filter_3 = jnp.array([1, 2, 1], x.dtype) / 4
  kernel = jnp.broadcast_to(
    jnp.outer(filter_3, filter_3)[:, :, None, None], (3, 3, 1, channels)
  )
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=((padding, padding), (padding, padding)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=channels,
  )


def stem(variant, conv) -> nnx.Module:
  """The stem's convolutions; the norm after the last is the network's own."""
  channels, stride = variant.widths[0], variant.stem_stride
  if variant.stem == 'deep':
    return DeepStem(channels, stride, conv)
  size = {'7x7': 7, '3x3': 3}[variant.stem]
  return conv(3, channels, size, stride)


class DeepStem(nnx.Module):
  """Three 3x3 convolutions, of which two have half of the channels."""

  def __init__(self, channels, stride, conv):
    half, rngs = channels // 2, conv.keywords['rngs']
    self.conv1 = conv(3, half, 3, stride)
    self.bn1 = BatchNorm(half, rngs=rngs)
    self.conv2 = conv(half, half, 3)
    self.bn2 = BatchNorm(half, rngs=rngs)
    self.conv3 = conv(half, channels, 3)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.bn1(self.conv1(x)))
    return self.conv3(nnx.relu(self.bn2(self.conv2(x))))


class Downsample(nnx.Module):
  """The projection on a block's shortcut, where its shape changes."""

  def __init__(self, in_channels, out_channels, stride, conv):
    self.conv = conv(in_channels, out_channels, 1, stride)
    self.norm = BatchNorm(out_channels, rngs=conv.keywords['rngs'])

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.norm(self.conv(x))


class AverageDownsample(nnx.Module):
  """Averages 2x2 pixels where there is a stride, then projects (ResNet-D)."""

  def __init__(self, in_channels, out_channels, stride, conv):
    self.stride = stride
    self.projection = Downsample(in_channels, out_channels, 1, conv)

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.stride > 1:
      # At the end of an odd side there are fewer pixels to average.
      x = nnx.avg_pool(x, (2, 2), (2, 2), 'SAME', count_include_pad=False)
    return self.projection(x)


def _downsample(variant, in_channels, out_channels, stride, conv):
  if stride == 1 and in_channels == out_channels:
    return None
  layer = AverageDownsample if variant.average_shortcut else Downsample
  return layer(in_channels, out_channels, stride, conv)


class BasicBlock(nnx.Module):
  """Two 3x3 convolutions, added to the shortcut."""

  def __init__(self, variant, in_channels, width, stride, dilations, conv):
    rngs = conv.keywords['rngs']
    self.pools = variant.blur_activations and stride > 1
    first = 1 if self.pools else stride
    self.conv1 = conv(in_channels, width, 3, first, dilation=dilations[0])
    self.bn1 = BatchNorm(width, rngs=rngs)
    self.conv2 = conv(width, width, 3, dilation=dilations[1])
    self.bn2 = BatchNorm(width, rngs=rngs)
    self.downsample = _downsample(variant, in_channels, width, stride, conv)

  def __call__(self, x: jax.Array) -> jax.Array:
    shortcut = x if self.downsample is None else self.downsample(x)
    x = nnx.relu(self.bn1(self.conv1(x)))
    x = blur_pool(x) if self.pools else x
    return nnx.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nnx.Module):
  """1x1, 3x3 and 1x1 convolutions, added to the shortcut."""

  def __init__(self, variant, in_channels, width, stride, dilations, conv):
    rngs = conv.keywords['rngs']
    self.pools = variant.blur_activations and stride > 1
    out_channels, inside = 4 * width, variant.inside(width)
    first, second = (stride, 1) if variant.stride_in_1x1 else (1, stride)
    if self.pools:
      first, second = 1, 1
    self.conv1 = conv(in_channels, inside, 1, first)
    self.bn1 = BatchNorm(inside, rngs=rngs)
    self.conv2 = conv(
      inside, inside, 3, second, dilation=dilations[0], groups=variant.groups
    )
    self.bn2 = BatchNorm(inside, rngs=rngs)
    self.conv3 = conv(inside, out_channels, 1)
    self.bn3 = BatchNorm(out_channels, rngs=rngs)
    self.downsample = _downsample(
      variant, in_channels, out_channels, stride, conv
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    shortcut = x if self.downsample is None else self.downsample(x)
    x = nnx.relu(self.bn1(self.conv1(x)))
    x = nnx.relu(self.bn2(self.conv2(x)))
    x = blur_pool(x) if self.pools else x
    return nnx.relu(self.bn3(self.conv3(x)) + shortcut)
