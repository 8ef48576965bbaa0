"""ResNet, ConvNeXt and ViT in PyTorch, written from their definitions.

Each is a function of a state dict, with timm's names for a ResNet and
torchvision's for the others, of the geometry, and of images [N, 3, H, W]. It
returns the embedding [N, D]. BatchNorm is in evaluation mode.
"""

import torch
from torch import nn
from torch.nn import functional as F


def resnet(tensors, variant, x):
  def conv(x, name, stride=1, dilation=1, groups=1):
    kernel = tensors[f'{name}.weight']
    padding = dilation * (kernel.shape[-1] // 2)
    return F.conv2d(x, kernel, None, stride, padding, dilation, groups)

  def norm(x, name):
    leaves = ('running_mean', 'running_var', 'weight', 'bias')
    return F.batch_norm(x, *(tensors[f'{name}.{leaf}'] for leaf in leaves))

  def blur_pool(x):
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(row, row).repeat(x.shape[1], 1, 1, 1)
    x = F.pad(x, (1, 1, 1, 1), mode='reflect')
    return F.conv2d(x, kernel, stride=2, groups=x.shape[1])

  def shortcut(x, name, stride):
    if f'{name}.1.weight' not in tensors:
      return x
    if not variant.average_shortcut:
      return norm(conv(x, f'{name}.0', stride), f'{name}.1')
    if stride > 1:
      x = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    return norm(conv(x, f'{name}.1'), f'{name}.2')

  def block(x, name, stride, first, rest):
    y, place = x, 2 if variant.bottleneck and not variant.stride_in_1x1 else 1
    for i in (1, 2, 3) if variant.bottleneck else (1, 2):
      blurs = variant.blur_activations and stride > 1
      y = conv(
        y,
        f'{name}.conv{i}',
        stride if i == place and not blurs else 1,
        # Of the 3x3 convolutions.
        {(True, 2): first, (False, 1): first, (False, 2): rest}.get(
          (variant.bottleneck, i), 1
        ),
        variant.groups if i == 2 else 1,
      )
      y = norm(y, f'{name}.bn{i}')
      if f'{name}.conv{i + 1}.weight' in tensors:
        y = y.relu()
        y = blur_pool(y) if blurs and i == place else y
    return (y + shortcut(x, f'{name}.downsample', stride)).relu()

  if variant.stem == 'deep':
    x = norm(conv(x, 'conv1.0', variant.stem_stride), 'conv1.1').relu()
    x = norm(conv(x, 'conv1.3'), 'conv1.4').relu()
    x = conv(x, 'conv1.6')
  else:
    x = conv(x, 'conv1', variant.stem_stride)
  x = norm(x, 'bn1').relu()
  if variant.stem_pool and variant.blur_activations:
    x = blur_pool(F.max_pool2d(x, 3, 1, 1))
  elif variant.stem_pool:
    x = F.max_pool2d(x, 3, 2, 1)
  total = variant.stem_stride * (2 if variant.stem_pool else 1)
  before = dilation = 1
  for s, depth in enumerate(variant.depths, start=1):
    stride = 1 if s == 1 else 2
    if total * stride > variant.output_stride:
      stride, dilation = 1, dilation * stride
    total *= stride
    for b in range(depth):
      x = block(x, f'layer{s}.{b}', stride, before, dilation)
      stride, before = 1, dilation
  return x.mean((2, 3))


def convnext(tensors, variant, x):
  def conv(x, name, **kwargs):
    leaves = (tensors[f'{name}.weight'], tensors[f'{name}.bias'])
    return F.conv2d(x, *leaves, **kwargs)

  def norm(x, name):
    return _layer_norm(x.permute(0, 2, 3, 1), tensors, name).permute(0, 3, 1, 2)

  x = norm(conv(x, 'features.0.0', stride=4), 'features.0.1')
  for s, depth in enumerate(variant.depths):
    if s:
      x = norm(x, f'features.{2 * s}.0')
      x = conv(x, f'features.{2 * s}.1', stride=2)
    for b in range(depth):
      name = f'features.{2 * s + 1}.{b}'
      y = conv(x, f'{name}.block.0', padding=3, groups=x.shape[1])
      y = norm(y, f'{name}.block.2').permute(0, 2, 3, 1)
      y = F.gelu(_linear(y, tensors, f'{name}.block.3'))
      y = _linear(y, tensors, f'{name}.block.5').permute(0, 3, 1, 2)
      x = x + tensors[f'{name}.layer_scale'] * y
  return _layer_norm(x.mean((2, 3)), tensors, 'classifier.0')


def vit(tensors, variant, x):
  leaves = (tensors['conv_proj.weight'], tensors['conv_proj.bias'])
  x = F.conv2d(x, *leaves, stride=variant.patch).flatten(2).mT
  token = tensors['class_token'].expand(len(x), -1, -1)
  x = torch.cat([token, x], 1) + tensors['encoder.pos_embedding']
  for b in range(variant.depth):
    name = f'encoder.layers.encoder_layer_{b}'
    attention = nn.MultiheadAttention(
      variant.width, variant.num_heads, batch_first=True
    )
    prefix = f'{name}.self_attention.'
    attention.load_state_dict(
      {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
      }
    )
    y = _layer_norm(x, tensors, f'{name}.ln_1')
    x = x + attention(y, y, y, need_weights=False)[0]
    y = _layer_norm(x, tensors, f'{name}.ln_2')
    y = F.gelu(_linear(y, tensors, f'{name}.mlp.0'))
    x = x + _linear(y, tensors, f'{name}.mlp.3')
  x = _layer_norm(x, tensors, 'encoder.ln')
  return x[:, 0] if variant.pooling == 'token' else x[:, 1:].mean(1)


def _layer_norm(x, tensors, name):
  leaves = (tensors[f'{name}.weight'], tensors[f'{name}.bias'])
  return F.layer_norm(x, x.shape[-1:], *leaves, eps=1e-6)


def _linear(x, tensors, name):
  return F.linear(x, tensors[f'{name}.weight'], tensors[f'{name}.bias'])
