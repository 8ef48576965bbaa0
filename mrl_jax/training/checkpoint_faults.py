"""Finds out why a checkpoint cannot be restored.

It may be damaged (a file is missing, cut or changed), hold another model, or be
unreadable for this process.
"""

from collections.abc import Mapping
import errno
import os
from typing import Any
import zlib

import jax

from mrl_jax.training import fingerprint

_OF_THE_FILE = frozenset([None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR])
_SCARCE = (
  *('RESOURCE_EXHAUSTED', 'Out of memory', 'No space left'),
  *('PERMISSION_DENIED', 'Permission denied'),
)
_DAMAGE = {
  'a file is missing': ('NOT_FOUND', 'FileNotFoundError'),
  'a file is cut short': ('OUT_OF_RANGE', 'Truncated', 'match actual length'),
}


class DamagedError(ValueError):
  """A file of a checkpoint is missing, cut off, or not as it was saved."""


def is_of_the_machine(error: BaseException) -> bool:
  """Whether an error is a lack of memory, space, files or permission."""
  if isinstance(error, OSError):
    # A missing path, or one of another kind, is a fault of the checkpoint.
    return error.errno not in _OF_THE_FILE
  return isinstance(error, MemoryError) or any(
    text in str(error) for text in _SCARCE
  )


def text_of(error: BaseException, folder: os.PathLike) -> str:
  """An error as one line, with paths relative to `folder`."""
  if error.__cause__ and 'TensorStore details' in str(error):
    error = error.__cause__
  text = ' '.join(str(error).split()).partition(' [tensorstore_spec')[0]
  return f'{type(error).__name__}: ' + text.replace(f'{folder}/', '')[:300]


def damage(text: str) -> str:
  """The kind of damage that an error line from `text_of` speaks of."""
  for what, signs in _DAMAGE.items():
    if any(sign in text for sign in signs):
      return what
  return 'a file is not as it was saved'


def describe(tree: Any) -> dict[str, str]:
  """Dtype and shape of each array, such as `float32 [8, 10]`, by dotted path.

  The arrays may be abstract, or Orbax's metadata.
  """
  return {
    name: f'{jax.numpy.dtype(x.dtype).name} {[*x.shape]}'
    for name, x in fingerprint.by_path(tree).items()
  }


def layout_number(described: Mapping[str, str]) -> int:
  """A 32-bit checksum of all names, dtypes and shapes."""
  lines = sorted(f'{name} {what}' for name, what in described.items())
  return zlib.crc32('\n'.join(lines).encode())


def misfit(there: Mapping[str, str], here: Mapping[str, str]) -> str:
  """The first array that differs, and the setting that is the likely cause.

  Takes what `describe` returns of the checkpoint, with names that begin with
  its items, and of the model to restore. Returns the end of a sentence.
  """
  differing = sorted(
    name for name in there | here if there.get(name) != here.get(name)
  )
  if not differing:
    return ''
  # Differences in the encoder come before those of head and optimizer.
  name = min(
    differing, key=lambda x: (not x.startswith('model.'), '.head.' in x, x)
  )
  more = f', and {len(differing) - 1} more differ' if differing[1:] else ''
  was, now = there.get(name, 'absent'), here.get(name, 'absent')
  return f'{name} is {was} there and {now} here{more}: {_cause(name, was, now)}'


def _cause(name: str, was: str, now: str) -> str:
  if name.startswith('optimizer.'):
    return (
      'another optimizer, or none, as in an imported model, which '
      '--config.init_from starts from'
    )
  if 'absent' in (was, now):
    return 'another head' if '.head.' in name else 'another encoder'
  (dtype, shape), (new_dtype, new_shape) = map(_parts, (was, now))
  if shape == new_shape:
    return f'another dtype ({dtype} there, {new_dtype} here)'
  if '.head.' not in name:
    return 'another encoder, or input of another width'
  if len(shape) == len(new_shape) and shape[:-1] == new_shape[:-1]:
    return f'another num_classes ({shape[-1]} there, {new_shape[-1]} here)'
  if len(shape) == len(new_shape):
    return 'other nesting_dims'
  return 'another head'


def _parts(described: str) -> tuple[str, list[str]]:
  dtype, _, shape = described.partition(' ')
  return dtype, shape.strip('[]').split(', ')
