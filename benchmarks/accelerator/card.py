"""What the accelerator is, and its rates of products and copies."""

import importlib.metadata
import shutil
import subprocess
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.accelerator import peers
from benchmarks.accelerator import rounds
from benchmarks.accelerator.task import Task

_PACKAGES = (
  *('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'libtpu'),
  *('jax-cuda12-plugin', 'jax-cuda13-plugin', 'torch', 'triton'),
  *('timm', 'torchvision'),
)
_QUERY = 'name,driver_version,memory.total,power.limit,clocks.max.sm'


def run(task: Task) -> None:
  task.attempt('card', _about)
  task.attempt('product of matrices', lambda: _products(task))
  task.attempt('copies', lambda: _copies(task))


def _about() -> dict[str, Any]:
  devices = jax.devices()
  stats = devices[0].memory_stats() or {}
  versions = {}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  row = {'platform': jax.default_backend(), **timing.environment()}
  if 'bytes_limit' in stats:
    row['device GB'] = stats['bytes_limit'] / 1e9
  if shutil.which('nvidia-smi'):
    row['nvidia-smi'] = subprocess.run(
      ['nvidia-smi', f'--query-gpu={_QUERY}', '--format=csv,noheader'],
      capture_output=True,
      text=True,
      timeout=20,
    ).stdout.strip()
  row['peer'] = peers.device() or 'none'
  row['versions'] = ', '.join(f'{k} {v}' for k, v in versions.items())
  return row


def _products(task: Task) -> dict[str, Any]:
  side = task.sizes.product
  normal = np.random.default_rng(0).standard_normal((side, side), np.float32)
  product = jax.jit(jnp.matmul)
  functions = {}
  for dtype in ('bfloat16', 'float32'):
    square = jnp.asarray(normal, dtype)
    functions[dtype] = rounds.repeated(lambda x=square: product(x, x))
  if peers.device():
    functions['PyTorch bfloat16'] = _torch_product(normal)
  ms = rounds.alternate(functions, task.sizes)
  return {
    'side': side,
    **{f'{name} TFLOP/s': 2e-9 * side**3 / ms[name] for name in functions},
  }


def _torch_product(normal: np.ndarray) -> rounds.Steps:
  import torch

  square = torch.tensor(normal, device=peers.device()).bfloat16()

  def run(n):
    for _ in range(n):
      torch.matmul(square, square)
    peers.wait()

  return run


def _copies(task: Task) -> dict[str, Any]:
  """Rates in GB/s; on the device, bytes read and bytes written both count."""
  count = task.sizes.copy_mb * 2**20 // 4
  on_device = jax.jit(lambda key: jax.random.normal(key, (count,)))(
    jax.random.key(0)
  )
  # Within the host a smaller array tells the same.
  part = on_device[: max(count // 8, 1)]
  on_host = np.asarray(part)
  scale = jax.jit(lambda x: 1.5 * x)
  functions = {
    'device to device': rounds.repeated(lambda: scale(on_device)),
    'host to device': rounds.repeated(lambda: jax.device_put(on_host)),
    # A new array each time, as an array remembers what was fetched of it.
    'device to host': rounds.repeated(lambda: np.asarray(scale(part))),
  }
  ms = rounds.alternate(functions, task.sizes)
  size = on_device.nbytes
  moved = {
    'device to device': 2 * size,
    'host to device': part.nbytes,
    'device to host': part.nbytes,
  }
  return {f'{name} GB/s': 1e-6 * moved[name] / ms[name] for name in functions}
