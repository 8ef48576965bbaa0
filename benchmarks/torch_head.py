"""Nested heads as a plain loop in PyTorch, as the reference has them.

Slice after slice, product after product, loss after loss, all logits kept
(github.com/RAIVNLab/MRL, its layer and its loss), written from the definitions.
"""

from collections.abc import Callable
import itertools

import numpy as np
import torch
from torch import nn


def steps(
  kind: str,
  dims: tuple[int, ...],
  arrays: tuple[np.ndarray, ...],
  *,
  bfloat16: bool = False,
  compiled: bool = False,
) -> tuple[Callable[[], float], Callable[[], float]]:
  """Forward, and forward with backward, which both return the loss.

  The arrays are embedding [N, D], kernel [R, C], bias and labels [N], as in
  `models.heads`.
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

  if compiled:
    loss_fn = torch.compile(loss_fn)

  def forward():
    with torch.no_grad():
      return loss_fn().item()

  def forward_backward():
    embedding_ND.grad = None
    heads.zero_grad()
    loss = loss_fn()
    loss.backward()
    return loss.item()

  return forward, forward_backward
