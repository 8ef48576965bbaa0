"""The parts of a ResNet: convolutions, stems, shortcuts and blocks.

Throughout, `variant` is the network's `resnet.Variant`, and `layers` its
`Layers`.
"""

import dataclasses
import math

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import initializers
from mrl_jax.models.batch_norm import BatchNorm


class Conv(nnx.Module):
  """A convolution, after a blur of the given stride unless that is 0."""

  def __init__(self, conv: nnx.Conv, *, blur_stride: int):
    self.conv = conv
    self.blur_stride = blur_stride

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.blur_stride:
      x = _blur(x, stride=self.blur_stride, padding=1)
    size, stride = self.conv.kernel_shape[0], self.conv.strides
    steps = [(length - 1) // stride + 1 for length in x.shape[1:3]]
    is_plain = self.conv.kernel_dilation == self.conv.feature_group_count == 1
    if is_plain and size == 3 and math.prod(steps) < size**2:
      return self._as_product(x, *steps)
    return self.conv(x)

  def _as_product(self, x: jax.Array, height: int, width: int) -> jax.Array:
    """The convolution to a map that is smaller than its 3x3 kernel.

    XLA would exchange the two, and convolve the kernel with the map in plain
    loops on a CPU: up to seven times as slow as this product, backwards too.
    """
    stride = self.conv.strides
    kernel = self.conv.kernel[...].astype(self.conv.dtype)
    x = jnp.pad(x.astype(self.conv.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (
      [slice(i, i + stride * (length - 1) + 1, stride) for i in range(3)]
      for length in (height, width)
    )
    patches = [x[:, row, column] for row in rows for column in columns]
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return jnp.concatenate(patches, -1) @ kernel


def project(norm: BatchNorm, conv: Conv, x: jax.Array) -> jax.Array:
  """Returns `norm(conv(x))`.

  In training, the output of a 1x1 convolution with at least four times as many
  channels as its input is not stored.
  """
  size, _, in_channels, out_channels = conv.conv.kernel_shape
  is_plain = size == 1 and conv.conv.strides == 1 and not conv.blur_stride
  if norm.use_running_average or not is_plain or out_channels < 4 * in_channels:
    return norm(conv(x))
  return norm.project(x, conv.conv.kernel[...][0, 0])


@dataclasses.dataclass(frozen=True)
class Layers:
  """Makes the layers of one network, all with the same options.

  Attributes:
    blurpool: whether strided convolutions with at least 16 input channels
      follow a fixed 3x3 binomial filter: BlurPool (arXiv 1904.11486) as the MRL
      recipe uses it.
    dtype: dtype of the convolutions.
    rngs: the `params` stream initialises the parameters.
  """

  blurpool: bool
  dtype: jnp.dtype
  rngs: nnx.Rngs

  def conv(
    self,
    in_channels: int,
    out_channels: int,
    size: int,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
  ) -> Conv:
    """A convolution without bias, with torch's padding."""
    blurs = self.blurpool and stride > 1 and in_channels >= 16
    # Before a 1x1 convolution only the pixels that it reads are blurred.
    blur_stride = (stride if size == 1 else 1) if blurs else 0
    conv = nnx.Conv(
      in_channels,
      out_channels,
      (size, size),
      strides=stride // max(blur_stride, 1),
      padding=dilation * (size // 2),
      kernel_dilation=dilation,
      feature_group_count=groups,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=initializers.kaiming_normal,
      rngs=self.rngs,
    )
    return Conv(conv, blur_stride=blur_stride)

  def norm(self, channels: int) -> BatchNorm:
    return BatchNorm(channels, rngs=self.rngs)


def blur(x: jax.Array) -> jax.Array:
  """Convolves each channel with [1 2 1]^T [1 2 1] / 16, zeros outside."""
  return _blur(x, stride=1, padding=1)


def blur_pool(x: jax.Array) -> jax.Array:
  """Blurs `x` [N, h, w, C] with reflected borders and takes every other pixel.

  This is timm's `BlurPool2d`, the antialiasing of its resnetblur50.
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


def stem(variant, layers: Layers) -> nnx.Module:
  """The stem without the norm after its last convolution."""
  channels, stride = variant.widths[0], variant.stem_stride
  if variant.stem == 'deep':
    return DeepStem(channels, stride, layers)
  size = {'7x7': 7, '3x3': 3}[variant.stem]
  return layers.conv(3, channels, size, stride)


class DeepStem(nnx.Module):
  """Three 3x3 convolutions, the first two with half of the channels."""

  def __init__(self, channels, stride, layers):
    half = channels // 2
    self.conv1 = layers.conv(3, half, 3, stride)
    self.bn1 = layers.norm(half)
    self.conv2 = layers.conv(half, half, 3)
    self.bn2 = layers.norm(half)
    self.conv3 = layers.conv(half, channels, 3)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.bn1(self.conv1(x)))
    return self.conv3(nnx.relu(self.bn2(self.conv2(x))))


class Downsample(nnx.Module):
  """The projection on a block's shortcut, where its shape changes."""

  def __init__(self, in_channels, out_channels, stride, layers):
    self.conv = layers.conv(in_channels, out_channels, 1, stride)
    self.norm = layers.norm(out_channels)

  def __call__(self, x: jax.Array) -> jax.Array:
    return project(self.norm, self.conv, x)


class AverageDownsample(nnx.Module):
  """Averages 2x2 pixels where there is a stride, then projects (ResNet-D)."""

  def __init__(self, in_channels, out_channels, stride, layers):
    self.stride = stride
    self.projection = Downsample(in_channels, out_channels, 1, layers)

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.stride > 1:
      # At the end of an odd side torch averages fewer pixels, too.
      x = nnx.avg_pool(x, (2, 2), (2, 2), 'SAME', count_include_pad=False)
    return self.projection(x)


def _downsample(variant, in_channels, out_channels, stride, layers):
  if stride == 1 and in_channels == out_channels:
    return None
  layer = AverageDownsample if variant.average_shortcut else Downsample
  return layer(in_channels, out_channels, stride, layers)


class BasicBlock(nnx.Module):
  """Two 3x3 convolutions, added to the shortcut."""

  def __init__(self, variant, in_channels, width, stride, dilations, layers):
    self.pools = variant.blur_activations and stride > 1
    first = 1 if self.pools else stride
    self.conv1 = layers.conv(
      in_channels, width, 3, first, dilation=dilations[0]
    )
    self.bn1 = layers.norm(width)
    self.conv2 = layers.conv(width, width, 3, dilation=dilations[1])
    self.bn2 = layers.norm(width)
    self.downsample = _downsample(variant, in_channels, width, stride, layers)

  def __call__(self, x: jax.Array) -> jax.Array:
    shortcut = x if self.downsample is None else self.downsample(x)
    x = nnx.relu(self.bn1(self.conv1(x)))
    x = blur_pool(x) if self.pools else x
    return nnx.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nnx.Module):
  """1x1, 3x3 and 1x1 convolutions, added to the shortcut."""

  def __init__(self, variant, in_channels, width, stride, dilations, layers):
    self.pools = variant.blur_activations and stride > 1
    out_channels, inside = 4 * width, variant.inside(width)
    first, second = (stride, 1) if variant.stride_in_1x1 else (1, stride)
    if self.pools:
      first, second = 1, 1
    self.conv1 = layers.conv(in_channels, inside, 1, first)
    self.bn1 = layers.norm(inside)
    self.conv2 = layers.conv(
      inside, inside, 3, second, dilation=dilations[0], groups=variant.groups
    )
    self.bn2 = layers.norm(inside)
    self.conv3 = layers.conv(inside, out_channels, 1)
    self.bn3 = layers.norm(out_channels)
    self.downsample = _downsample(
      variant, in_channels, out_channels, stride, layers
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    shortcut = x if self.downsample is None else self.downsample(x)
    x = nnx.relu(self.bn1(self.conv1(x)))
    x = nnx.relu(self.bn2(self.conv2(x)))
    x = blur_pool(x) if self.pools else x
    return nnx.relu(project(self.bn3, self.conv3, x) + shortcut)
