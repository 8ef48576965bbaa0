"""Opens an export: finds its folder, checks its files, reads the encoder."""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
from typing import Any

import jax
from jax import export as jax_export

from mrl_jax.workdir import checksums
from mrl_jax.workdir import files

# The files of an export. An encoder of images has TENSORS; a run with an
# analysis has CASCADE.
ARTIFACT = 'encoder.stablehlo'
# Towers of images and texts have these two beside it.
TEXT_ARTIFACT = 'text.stablehlo'
TOKENIZER = 'tokenizer.json'
PREPROCESS = 'preprocess.json'
CONFIG = 'config.json'
HEADS = 'heads.npz'
CASCADE = 'cascade.json'
TENSORS = 'model.safetensors'
CARD = 'README.md'
CHECKSUMS = 'checksums.json'
# What an encoder is exported for.
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')

_REMEDY = 'run --mode=export again, or copy the whole folder again'


def find(path: str | os.PathLike) -> pathlib.Path:
  """The folder of an export, given it or the workdir that it is in.

  Raises ValueError if there is no export.
  """
  folder = files.local(path, 'export')
  if (folder / 'export').is_dir():
    folder = folder / 'export'
  if not (folder / ARTIFACT).is_file():
    raise ValueError(
      f'{folder} has no {ARTIFACT}: must be what --mode=export wrote, or a '
      'workdir with it'
    )
  return folder


def check(folder: pathlib.Path) -> checksums.Sealed:
  """Compares every file that the export wrote with its checksum.

  The model card is left out, as it may be edited; files that the export did not
  write are not looked at. Raises ValueError for a file that is missing or
  differs.
  """
  path = folder / CHECKSUMS
  if path.is_file():
    sealed = checksums.read(path, _REMEDY)
    sealed.check(*(name for name in sealed.files or () if name != CARD))
    return sealed
  if 'checksums' in files.read_json(folder / CONFIG):
    raise ValueError(f'{path} is missing: {_REMEDY}')
  return checksums.unchecked(folder, {}, _REMEDY)


def read_artifact(
  folder: pathlib.Path, name: str = ARTIFACT
) -> jax_export.Exported:
  """Reads the encoder, or another artifact.

  Raises ValueError if it is damaged, or not for this platform.
  """
  path = folder / name
  try:
    exported = jax_export.deserialize(path.read_bytes())
  # Flatbuffers and MLIR raise many types on damaged bytes.
  except Exception as error:
    line = ' '.join(str(error).split())[:200]
    raise ValueError(
      f'{path} cannot be read ({type(error).__name__}: {line})'
    ) from error
  platform = jax.default_backend()
  names = {'gpu': ('cuda', 'rocm')}.get(platform, (platform,))
  if not {*names} & {*exported.platforms}:
    raise ValueError(f'{path} is for {exported.platforms}, not for {platform}')
  return exported


def serialized(call: Callable[..., Any], *inputs: Any) -> bytes:
  """A function for all `PLATFORMS`, as `read_artifact` reads it.

  `inputs` are shapes and dtypes, and may be symbolic. The same function gives
  the same bytes on every machine.
  """
  with _without_source_paths():
    exported = jax_export.export(jax.jit(call), platforms=PLATFORMS)(*inputs)
    return bytes(exported.serialize())


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
  name = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)
