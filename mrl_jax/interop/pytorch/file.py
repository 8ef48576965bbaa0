"""Reads tensors from PyTorch's checkpoint files, and runs no code in them."""

import argparse
from collections.abc import Callable, Iterator, Mapping
import os
import pathlib
import pickle
import re
from typing import Any, NamedTuple
import warnings
import zipfile

import numpy as np

from mrl_jax.workdir import checksums

SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin', '.pth.tar', '.ckpt')
# The dtypes that weights may have, as safetensors and torch call them.
_FLOATS = frozenset(
  {'F16', 'BF16', 'F32', 'F64', 'float16', 'bfloat16', 'float32', 'float64'}
)
# How deep dicts within dicts are searched.
_MOST_LEVELS = 8


class Stored(NamedTuple):
  """A tensor of a file: its shape, its dtype, and a call that reads it."""

  shape: tuple[int, ...]
  dtype: str
  read: Callable[[], np.ndarray]

  def weights(self, name: str) -> np.ndarray:
    """Reads the tensor as float32; `name` is what errors call it.

    Raises ValueError for another dtype, NaN, infinity, or a negative variance.
    """
    if self.dtype not in _FLOATS:
      raise ValueError(
        f'{name} is of {self.dtype}: weights must be float16, bfloat16, '
        'float32 or float64'
      )
    # What float32 cannot hold becomes infinite, and is refused.
    with np.errstate(over='ignore'):
      array = self.read().astype(np.float32)
    if not np.isfinite(array).all():
      raise ValueError(f'{name} has values that are NaN or infinite in float32')
    if name.endswith('running_var') and (array < 0).any():
      raise ValueError(f'{name} has a negative variance, {array.min():g}')
    return array


def open_tensors(path: str | os.PathLike) -> dict[str, Stored]:
  """The file's tensors by name; each is read when it is asked for.

  `.safetensors` needs no torch. The others are opened with torch's
  `weights_only`, which refuses all but tensors in plain containers, so that no
  code in a pickle runs. Raises ValueError for such a pickle, a damaged file,
  and a file of another kind.
  """
  path = pathlib.Path(path)
  if not path.name.endswith(SUFFIXES):
    raise ValueError(f'{path}: must end in one of {", ".join(SUFFIXES)}')
  if not path.is_file():
    raise ValueError(f'{path}: there is no such file')
  checksums.check_beside(
    path, path.with_name('checksums.json'), 'run --mode=export again'
  )
  is_safe = path.suffix == '.safetensors'
  return _open_safetensors(path) if is_safe else _open_torch(path)


def _open_safetensors(path: pathlib.Path) -> dict[str, Stored]:
  import ml_dtypes  # noqa: F401, from then on numpy knows bfloat16.
  import safetensors

  try:
    file = safetensors.safe_open(path, 'numpy')
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path} is damaged, or cut short: {error}') from None
  # A function of the name, as a lambda would see the loop's last one.
  read = lambda name: lambda: file.get_tensor(name)
  slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
  return {
    name: Stored(tuple(part.get_shape()), part.get_dtype(), read(name))
    for name, part in slices.items()
  }


def _open_torch(path: pathlib.Path) -> dict[str, Stored]:
  try:
    import torch
  except ImportError:
    raise ValueError(
      f'{path}: needs PyTorch (pip install torch); .safetensors does not'
    ) from None
  try:
    # Scripts save their arguments as a Namespace, which runs no code.
    safe = torch.serialization.safe_globals([argparse.Namespace])
    with warnings.catch_warnings(), safe:
      # Torch warns of pickles that it did not write, and then refuses them.
      warnings.simplefilter('ignore', UserWarning)
      content = torch.load(
        path,
        map_location='cpu',
        weights_only=True,
        # Files from before PyTorch 1.6 are no archives and cannot be mapped.
        mmap=zipfile.is_zipfile(path),
      )
  except pickle.UnpicklingError as error:
    # Torch's own text advises to load it all the same.
    called = re.search(r'GLOBAL (\S+) ', str(error))
    reason = f'calls {called[1]}' if called else 'is no plain state dict'
    raise ValueError(
      f'{path} is refused, and nothing in it was run: it {reason}'
    ) from None
  # Torch raises many types on damaged files.
  except Exception as error:
    line = ' '.join(str(error).split())[:200]
    raise ValueError(
      f'{path} is damaged, or cut short ({type(error).__name__}: {line})'
    ) from None
  tensors = dict(_tensors(content, torch.Tensor))
  if not tensors:
    outline = type(content).__name__
    if isinstance(content, Mapping):
      outline = 'a dict of ' + ', '.join(map(str, [*content][:5]))
    raise ValueError(
      f'{path}: must hold a state dict of tensors, by itself or in a dict; it '
      f'holds {outline}'
    )
  read = lambda tensor: lambda: tensor.detach().to(torch.float32).numpy()
  return {
    name: Stored(
      tuple(tensor.shape),
      str(tensor.dtype).removeprefix('torch.'),
      read(tensor),
    )
    for name, tensor in tensors.items()
  }


def _tensors(
  content: Any, tensor_type: type, levels: int = _MOST_LEVELS
) -> Iterator[tuple[str, Any]]:
  """The tensors in a dict and in the dicts within it, by dotted names.

  Training scripts save a state dict beside other things; the prefixes tell
  these apart.
  """
  if not isinstance(content, Mapping) or not levels:
    return
  for name, value in content.items():
    if isinstance(value, tensor_type):
      yield str(name), value
    for inner, tensor in _tensors(value, tensor_type, levels - 1):
      yield f'{name}.{inner}', tensor
