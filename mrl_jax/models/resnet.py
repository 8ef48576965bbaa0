"""ResNet (arXiv 1512.03385), wide ResNet, ResNeXt and ResNet-D."""

import dataclasses
import functools
from typing import Literal

from flax import nnx
import jax
from jax import numpy as jnp

from mrl_jax.models import encoder
from mrl_jax.models import residual


@dataclasses.dataclass(frozen=True)
class Variant:
  """The geometry of a ResNet.

  Attributes:
    depths: number of blocks in each stage.
    widths: channels of each stage, before a bottleneck expands them by four.
    bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions instead of two 3x3.
    stem: one convolution, 7x7 or 3x3, or `deep`: three 3x3 convolutions, the
      first two with half of the channels (ResNet-C and -D, arXiv 1812.01187).
    stem_stride: stride of the stem's first convolution.
    stem_pool: whether a 3x3 max-pool of stride 2 ends the stem.
    groups: groups of the 3x3 convolution in a bottleneck (ResNeXt).
    width_per_group: channels per group of that convolution in a stage of width
      64; other stages have them in proportion.
    stride_in_1x1: a bottleneck's stride sits in its first 1x1 convolution (the
      original paper) instead of its 3x3 convolution (v1.5).
    average_shortcut: a shortcut averages 2x2 pixels and then projects them,
      instead of a projection with a stride (ResNet-D).
    blur_activations: activations are blurred and subsampled instead of a
      stride, except on shortcuts (timm's resnetblur50; `blurpool` differs).
    output_stride: largest number of image pixels, in each direction, for a
      pixel of the last stage; a stage that would exceed it dilates its
      convolutions instead of striding.
  """

  depths: tuple[int, ...]
  widths: tuple[int, ...] = (64, 128, 256, 512)
  bottleneck: bool = True
  stem: Literal['7x7', '3x3', 'deep'] = '7x7'
  stem_stride: int = 2
  stem_pool: bool = True
  groups: int = 1
  width_per_group: int = 64
  stride_in_1x1: bool = False
  average_shortcut: bool = False
  blur_activations: bool = False
  output_stride: int = 32

  def __post_init__(self):
    for name, right in (
      ('stem', ('7x7', '3x3', 'deep')),
      ('stem_stride', (1, 2)),
      ('output_stride', (8, 16, 32)),
    ):
      _require(self, name, right)
    if not self.bottleneck:
      for name, right in (
        ('groups', 1),
        ('width_per_group', 64),
        ('stride_in_1x1', False),
      ):
        _require(self, name, (right,), ' without bottlenecks')
    if self.average_shortcut or self.blur_activations:
      why = ' with average_shortcut or blur_activations'
      _require(self, 'output_stride', (32,), why)

  @property
  def expansion(self) -> int:
    return 4 if self.bottleneck else 1

  @property
  def num_features(self) -> int:
    return self.widths[-1] * self.expansion

  def inside(self, width: int) -> int:
    """Channels of the 3x3 convolution in a bottleneck of this width."""
    return width * self.width_per_group // 64 * self.groups

  def strides(self) -> tuple[tuple[int, int], ...]:
    """The stride and the dilation of each stage."""
    found, dilation = [], 1
    total = self.stem_stride * (2 if self.stem_pool else 1)
    for stage in range(len(self.depths)):
      stride = 2 if stage else 1
      if stride * total > self.output_stride:
        stride, dilation = 1, dilation * stride
      total *= stride
      found.append((stride, dilation))
    return tuple(found)


def _require(variant: Variant, name: str, right: tuple, why: str = '') -> None:
  value = getattr(variant, name)
  if value not in right:
    text = ' or '.join(map(str, right))
    raise ValueError(f'{name} {value!r}: must be {text}{why}')


_SMALL = {'stem': '3x3', 'stem_stride': 1, 'stem_pool': False}
_18 = {'depths': (2, 2, 2, 2), 'bottleneck': False}
_34 = {'depths': (3, 4, 6, 3), 'bottleneck': False}
_50, _101, _152 = (
  {'depths': depths} for depths in ((3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3))
)
_D = {'stem': 'deep', 'average_shortcut': True}

VARIANTS = {
  'resnet8': Variant((1, 1, 1), (16, 32, 64), False, **_SMALL),
  'resnet20': Variant((3, 3, 3), (16, 32, 64), False, **_SMALL),
  'resnet18': Variant(**_18),
  'resnet34': Variant(**_34),
  'resnet50': Variant(**_50),
  'resnet101': Variant(**_101),
  'resnet152': Variant(**_152),
  # For small images (CIFAR, Tiny-ImageNet).
  'resnet18_3x3': Variant(**_18, **_SMALL),
  'resnet34_3x3': Variant(**_34, **_SMALL),
  'resnet50_3x3': Variant(**_50, **_SMALL),
  'resnet101_3x3': Variant(**_101, **_SMALL),
  'resnet18_7x7_stride1': Variant(**_18, stem_stride=1),
  'resnet50_7x7_stride1': Variant(**_50, stem_stride=1),
  'resnet50_v1': Variant(**_50, stride_in_1x1=True),
  'resnet101_v1': Variant(**_101, stride_in_1x1=True),
  'resnet152_v1': Variant(**_152, stride_in_1x1=True),
  'resnet18d': Variant(**_18, **_D),
  'resnet34d': Variant(**_34, **_D),
  'resnet50d': Variant(**_50, **_D),
  'resnet101d': Variant(**_101, **_D),
  'resnet152d': Variant(**_152, **_D),
  'resnetblur50': Variant(**_50, blur_activations=True),
  'wide_resnet50_2': Variant(**_50, width_per_group=128),
  'wide_resnet101_2': Variant(**_101, width_per_group=128),
  'resnext50_32x4d': Variant(**_50, groups=32, width_per_group=4),
  'resnext101_32x4d': Variant(**_101, groups=32, width_per_group=4),
  'resnext101_32x8d': Variant(**_101, groups=32, width_per_group=8),
  'resnext101_64x4d': Variant(**_101, groups=64, width_per_group=4),
}


class ResNet(encoder.Encoder):
  """A ResNet: stem, stages, global average pooling.

  Parameters are float32; `dtype` is the dtype of the convolutions. The stages
  are `stem`, `layer1`, `layer2`, …, of activations [N, h, w, C].
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
    layers = residual.Layers(blurpool, dtype, rngs)
    channels = variant.widths[0]
    self.conv1 = residual.stem(variant, layers)
    self.bn1 = layers.norm(channels)
    block = residual.Bottleneck if variant.bottleneck else residual.BasicBlock
    before = 1
    for stage, (stride, dilation) in enumerate(variant.strides()):
      width = variant.widths[stage]
      blocks = []
      for _ in range(variant.depths[stage]):
        # As in torchvision and timm, the first block still has the dilation of
        # the stage before.
        dilations = (before, dilation)
        blocks.append(
          block(variant, channels, width, stride, dilations, layers)
        )
        stride, before = 1, dilation
        channels = width * variant.expansion
      setattr(self, f'layer{stage + 1}', nnx.List(blocks))
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
    x = self.conv1(x)
    if not self.variant.stem_pool:
      return nnx.relu(self.bn1(x))
    blurs = self.variant.blur_activations
    # Torch's padding; 'SAME' would pad only on one side.
    max_pool = functools.partial(
      nnx.max_pool,
      window_shape=(3, 3),
      strides=(1, 1) if blurs else (2, 2),
      padding=((1, 1), (1, 1)),
    )
    x = nnx.relu(self.bn1.pooled(x, max_pool))
    return residual.blur_pool(x) if blurs else x

  def _pool(self, x: jax.Array) -> jax.Array:
    # The barrier keeps XLA's CPU backend from fusing the mean into the last
    # block, which from jaxlib 0.11.2 on gives NaN in bfloat16.
    x = jax.lax.optimization_barrier(x)
    return x.mean((1, 2), dtype=jnp.float32)
