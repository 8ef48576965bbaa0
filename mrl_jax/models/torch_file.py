"""Opens PyTorch's checkpoint files: tensors, and nothing that could run."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import os
import pathlib
import pickle
import re
from typing import Any, NamedTuple
import warnings
import zipfile

import numpy as np

from mrl_jax import checksums

SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin')
# Where training scripts put the state dict, beside what else they save.
_INNER = ('state_dict', 'model', 'model_state_dict')


class Stored(NamedTuple):
  """A tensor of a file: its shape, and a call that reads it."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike) -> Iterator[dict[str, Stored]]:
  """Yields the file's tensors by name; each is read when it is asked for.

  `.safetensors` needs no torch. The others are opened with its `weights_only`,
  which refuses all but tensors in plain containers: of a pickle with code in it
  nothing is run. Raises ValueError for such a file, one that is damaged, and
  one that is neither.
  """
  path = pathlib.Path(path)
  if path.suffix not in SUFFIXES:
    raise ValueError(f'{path}: must end in one of {", ".join(SUFFIXES)}')
  if not path.is_file():
    raise ValueError(f'{path}: there is no such file')
  checksums.check_beside(
    path, path.with_name('checksums.json'), 'run --mode=export again'
  )
  if path.suffix == '.safetensors':
    with _open_safetensors(path) as tensors:
      yield tensors
  else:
    yield _open_torch(path)


@contextlib.contextmanager
def _open_safetensors(path: pathlib.Path) -> Iterator[dict[str, Stored]]:
  import safetensors

  try:
    file = safetensors.safe_open(path, 'numpy')
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path} is damaged, or cut short: {error}') from None
  with file:
    # Bound to its name at once, not when it is called.
    read = lambda name: lambda: file.get_tensor(name)
    names = file.keys()  # It is no mapping.
    yield {
      name: Stored(tuple(file.get_slice(name).get_shape()), read(name))
      for name in names
    }


def _open_torch(path: pathlib.Path) -> dict[str, Stored]:
  try:
    import torch
  except ImportError:
    raise ValueError(
      f'{path}: needs PyTorch (pip install torch); .safetensors does not'
    ) from None
  try:
    with warnings.catch_warnings():
      # Of pickles that it did not write, which it then refuses.
      warnings.simplefilter('ignore', UserWarning)
      content = torch.load(
        path,
        map_location='cpu',
        weights_only=True,
        # Files of before PyTorch 1.6 are no archives, and cannot be mapped.
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
  read = lambda tensor: lambda: tensor.detach().to(torch.float32).numpy()
  return {
    name: Stored(tuple(tensor.shape), read(tensor))
    for name, tensor in _state_dict(content, path, torch.Tensor).items()
  }


def _state_dict(
  content: Any, path: pathlib.Path, tensor_type: type
) -> Mapping[str, Any]:
  inner = [content]
  if isinstance(content, Mapping):
    inner += [content[name] for name in _INNER if name in content]
  for part in inner:
    values = part.values() if isinstance(part, Mapping) else ()
    if values and all(isinstance(value, tensor_type) for value in values):
      return part
  raise ValueError(
    f'{path}: must hold a state dict of tensors, by itself or as one of '
    f'{", ".join(_INNER)}; it holds {_outline(content)}'
  )


def _outline(content: Any) -> str:
  if isinstance(content, Mapping):
    return 'a dict of ' + ', '.join(map(str, [*content][:5]))
  return type(content).__name__
