"""The training step in PyTorch: torch.compile, channels_last, autocast.

The encoder is timm's where timm is installed, else torchvision's, else, for
ResNets, `benchmarks.torch_resnet`'s. Heads and loss are the plain loop.
"""

import contextlib
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import head as head_lib
from benchmarks import imagenet
from benchmarks import torch_resnet
from benchmarks.accelerator import peers
from benchmarks.accelerator import train_steps
from benchmarks.accelerator.sizes import Sizes
from benchmarks.accelerator.train_steps import Step

_TIMM = {
  'resnet50': 'resnet50',
  'convnext_tiny': 'convnext_tiny',
  'vit_b16': 'vit_base_patch16_224',
}
_TORCHVISION = {
  'resnet50': ('resnet50', 'fc'),
  'convnext_tiny': ('convnext_tiny', 'classifier.2'),
  'vit_b16': ('vit_b_16', 'heads'),
}


def has_peer(sizes: Sizes, step: Step) -> bool:
  """Whether there is such an encoder in PyTorch here."""
  return bool(peers.device()) and _encoder(sizes, step, probe=True) is not None


def _encoder(
  sizes: Sizes, step: Step, *, probe: bool = False
) -> tuple[nn.Module | None, str] | None:
  """The encoder and where it is from; with `probe`, only where from.

  A torchvision that is not for this PyTorch raises RuntimeError.
  """
  is_resnet = step.encoder.startswith('resnet')
  if not sizes.tiny and not step.blurpool:
    with contextlib.suppress(ImportError, RuntimeError):
      import timm

      if probe:
        return None, 'timm'
      options = {'img_size': step.pixels} if 'vit' in step.encoder else {}
      name = _TIMM[step.encoder]
      return timm.create_model(name, num_classes=0, **options), 'timm'
    with contextlib.suppress(ImportError, RuntimeError):
      import torchvision

      if probe:
        return None, 'torchvision'
      name, last = _TORCHVISION[step.encoder]
      model = getattr(torchvision.models, name)()
      model.set_submodule(last, nn.Identity())
      return model, 'torchvision'
  if not is_resnet:
    return None
  if probe:
    return None, 'benchmarks'
  geometry = train_steps.variant(sizes, step.encoder)
  model = torch_resnet.ResNet(geometry, blurpool=step.blurpool)
  return model, 'benchmarks'


class _Losses(nn.Module):
  """The summed loss of uint8 images, normalised on the device."""

  def __init__(self, encoder: nn.Module, heads: nn.Module):
    super().__init__()
    self.encoder = encoder
    self.heads = heads
    self.criterion = nn.CrossEntropyLoss(
      label_smoothing=train_steps.LABEL_SMOOTHING
    )
    for name, value in (('mean', imagenet.MEAN), ('std', imagenet.STD)):
      self.register_buffer(name, torch.tensor(value)[:, None, None])

  def forward(self, image, label):
    x = (image / 255 - self.mean) / self.std
    logits = self.heads(self.encoder(x))
    return torch.stack([self.criterion(y, label) for y in logits]).sum()


class TorchTraining:
  """A compiled training step of PyTorch, on the first device.

  Attributes:
    source: where the encoder is from.
  """

  def __init__(self, sizes: Sizes, step: Step, batch: dict[str, np.ndarray]):
    device = peers.device()
    encoder, self.source = _encoder(sizes, step)
    heads = torch_resnet.Heads(
      head_lib.KINDS[step.head],
      train_steps.nesting_dims(sizes, step),
      sizes.classes,
    )
    model = _Losses(encoder, heads).to(
      device, memory_format=torch.channels_last
    )
    self._optimizer = _optimizer(model, step, fused=device == 'cuda')
    # Channels last in memory, as numpy has them.
    self._image = torch.tensor(batch['image'], device=device)
    self._image = self._image.permute(0, 3, 1, 2)
    self._label = torch.tensor(batch['label'], device=device).long()
    self._autocast = lambda: torch.autocast(
      device, torch.bfloat16, enabled=sizes.dtype == 'bfloat16'
    )
    self._loss_fn = peers.compiled(model)
    self._loss: Any = None

  def run(self, n: int) -> None:
    """Does n steps on the same batch, and waits for the last."""
    for _ in range(n):
      with self._autocast():
        self._loss = self._loss_fn(self._image, self._label)
      self._optimizer.zero_grad(set_to_none=True)
      self._loss.backward()
      self._optimizer.step()
    peers.wait()

  def loss(self) -> float:
    """The loss of the last step; raises ValueError if it is not one."""
    loss = float(self._loss.detach())
    if not np.isfinite(loss):
      raise ValueError(f'the loss of PyTorch is {loss}')
    return loss


def _optimizer(model: nn.Module, step: Step, *, fused: bool):
  if not step.is_adamw:
    return torch_resnet.optimizer(
      model,
      momentum=train_steps.MOMENTUM,
      weight_decay=train_steps.SGD_DECAY,
      fused=fused,
    )
  return torch.optim.AdamW(
    model.parameters(),
    lr=1e-4,
    weight_decay=train_steps.ADAMW_DECAY,
    fused=fused,
  )
