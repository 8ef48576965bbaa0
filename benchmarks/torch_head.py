"""Nested heads as a plain loop in PyTorch, as the reference has them.

Slice after slice, product after product, loss after loss, all logits kept
(github.com/RAIVNLab/MRL, its layer and its loss), written from the definitions.
"""

from collections.abc import Callable, Sequence
import itertools

import numpy as np
import torch
from torch import nn


def steps(
  kind: str,
  dims: tuple[int, ...],
  arrays: Sequence[np.ndarray],
  *,
  bfloat16: bool = False,
  compiled: Callable | None = None,
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
  """Forward, and forward with backward; both return the loss, detached.

  Neither waits for the device. `arrays` are the embedding [N, D], kernel
  [R, C], bias and labels [N] that our head has; `compiled` compiles the loss,
  as `torch.compile` does.
  """
  embedding_ND, kernel_RC, bias, label_N = arrays
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  tensor = lambda x: torch.tensor(np.asarray(x), device=device)
  embedding_ND = tensor(embedding_ND).requires_grad_()
  label_N = tensor(label_N).long()
  heads = nn.ModuleList()
  ends = itertools.accumulate(dims) if kind == 'mrl' else dims[-1:]
  for g, end in enumerate(ends):
    width = dims[g] if kind == 'mrl' else end
    head = nn.Linear(width, kernel_RC.shape[1], device=device)
    with torch.no_grad():
      head.weight.copy_(tensor(kernel_RC[end - width : end].T))
      head.bias.copy_(tensor(bias[g] if kind == 'mrl' else bias))
    heads.append(head)
  criterion = nn.CrossEntropyLoss()

  def loss_fn():
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
      if kind == 'mrl':
        logits = [
          head(embedding_ND[:, :m]) for head, m in zip(heads, dims, strict=True)
        ]
      else:
        logits = [
          torch.matmul(embedding_ND[:, :m], heads[0].weight[:, :m].t())
          + heads[0].bias
          for m in dims
        ]
      return torch.stack([criterion(x, label_N) for x in logits]).sum()

  if compiled is not None:
    loss_fn = compiled(loss_fn)

  def forward():
    with torch.no_grad():
      return loss_fn()

  def forward_backward():
    embedding_ND.grad = None
    heads.zero_grad()
    loss = loss_fn()
    loss.backward()
    return loss.detach()

  return forward, forward_backward
