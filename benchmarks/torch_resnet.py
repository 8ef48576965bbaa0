"""A bottleneck ResNet with nested heads in plain PyTorch.

Written from the definitions of the released recipe. The modules bear
torchvision's names, because the released decay filter goes by name.
"""

import torch
from torch import nn

from mrl_jax.models import resnet


class BlurConv(nn.Conv2d):
  """A convolution after a blur by [1, 2, 1] x [1, 2, 1] / 16."""

  def forward(self, x):
    row = torch.tensor([1, 2, 1], dtype=x.dtype, device=x.device)
    kernel = torch.outer(row, row).repeat(self.in_channels, 1, 1, 1) / 16
    blurred = nn.functional.conv2d(
      x, kernel, padding=1, groups=self.in_channels
    )
    return super().forward(blurred)


def _convolution(in_channels, out_channels, size, stride=1, blurpool=True):
  blurs = blurpool and stride > 1 and in_channels >= 16
  layer = BlurConv if blurs else nn.Conv2d
  return layer(
    in_channels, out_channels, size, stride, padding=size // 2, bias=False
  )


class Bottleneck(nn.Module):
  def __init__(self, in_channels: int, width: int, stride: int, blurpool: bool):
    super().__init__()
    out_channels = 4 * width
    self.conv1 = _convolution(in_channels, width, 1)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = _convolution(width, width, 3, stride, blurpool)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3 = _convolution(width, out_channels, 1)
    self.bn3 = nn.BatchNorm2d(out_channels)
    self.downsample = nn.Identity()
    if stride > 1 or in_channels != out_channels:
      self.downsample = nn.Sequential(
        _convolution(in_channels, out_channels, 1, stride, blurpool),
        nn.BatchNorm2d(out_channels),
      )

  def forward(self, x):
    y = self.bn1(self.conv1(x)).relu()
    y = self.bn2(self.conv2(y)).relu()
    return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet(nn.Module):
  """Embeddings [N, D] of images."""

  def __init__(self, variant: resnet.Variant, *, blurpool: bool = True):
    super().__init__()
    channels = variant.widths[0]
    self.conv1 = _convolution(3, channels, 7, stride=2)
    self.bn1 = nn.BatchNorm2d(channels)
    self.num_stages = len(variant.depths)
    for stage, (depth, width) in enumerate(
      zip(variant.depths, variant.widths, strict=True), start=1
    ):
      blocks = []
      for index in range(depth):
        stride = 2 if stage > 1 and index == 0 else 1
        blocks.append(Bottleneck(channels, width, stride, blurpool))
        channels = 4 * width
      self.add_module(f'layer{stage}', nn.Sequential(*blocks))

  def embed(self, x):
    x = self.bn1(self.conv1(x)).relu()
    x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage in range(1, self.num_stages + 1):
      x = getattr(self, f'layer{stage}')(x)
    return x.mean((2, 3))

  forward = embed


class Heads(nn.ModuleList):
  """Linear layers of nested heads: logits [N, C] of each, as a list."""

  def __init__(self, head: str, dims: tuple[int, ...], num_classes: int):
    """`head` as in `models.Classifier`; `fixed` and `mrl_e` share a layer."""
    widths = dims if head == 'mrl' else dims[-1:]
    super().__init__(nn.Linear(m, num_classes) for m in widths)
    self.dims, self.shared = dims, head != 'mrl'

  def forward(self, x):
    if not self.shared:
      return [fc(x[:, : fc.in_features]) for fc in self]
    weight, bias = self[0].weight, self[0].bias
    return [x[:, :m] @ weight[:, :m].T + bias for m in self.dims]


class Classifier(ResNet):
  """Logits [N, C] of each granularity, as a list."""

  def __init__(
    self,
    variant: resnet.Variant,
    head: str,
    dims: tuple[int, ...],
    num_classes: int,
  ):
    """`head` as in `Heads`."""
    super().__init__(variant)
    self.fc = Heads(head, dims, num_classes)

  def forward(self, x):
    return self.fc(self.embed(x))


def optimizer(
  model: nn.Module,
  *,
  momentum: float,
  weight_decay: float,
  fused: bool = False,
) -> torch.optim.Optimizer:
  """SGD; parameters with `bn` in their names do not decay, as released."""
  named = list(model.named_parameters())
  return torch.optim.SGD(
    [
      {'params': [p for k, p in named if 'bn' in k], 'weight_decay': 0},
      {'params': [p for k, p in named if 'bn' not in k]},
    ],
    lr=0,
    momentum=momentum,
    weight_decay=weight_decay,
    fused=fused,
  )
