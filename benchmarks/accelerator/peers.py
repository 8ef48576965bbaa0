"""PyTorch beside JAX: whether it can be, and how it is compiled."""

from collections.abc import Callable
import functools
import importlib.util

import jax


@functools.cache
def device() -> str:
  """PyTorch's device for the peers: cuda, cpu, or nothing for no peers.

  The CPU is for trying this out where there is no accelerator.
  """
  if importlib.util.find_spec('torch') is None:
    return ''
  import torch

  if jax.default_backend() == 'gpu' and torch.cuda.is_available():
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision('high')
    return 'cuda'
  return 'cpu' if jax.default_backend() == 'cpu' else ''


def compiled(function: Callable) -> Callable:
  """`torch.compile` for one shape; on a CPU without generating code.

  A second shape would otherwise be compiled for shapes of any size.
  """
  import torch

  backend = 'inductor' if device() == 'cuda' else 'eager'
  return torch.compile(function, backend=backend, dynamic=False)


def forget() -> None:
  """Drops what PyTorch has compiled, so that it may compile as much again."""
  if device():
    import torch

    torch.compiler.reset()


def wait() -> None:
  """Waits until PyTorch's device has done its work."""
  if device() == 'cuda':
    import torch

    torch.cuda.synchronize()
