"""The folder of a pretrained text encoder; a run keeps its settings."""

import pathlib
import shutil

from ml_collections import ConfigDict

from mrl_jax.interop.text import architectures
from mrl_jax.interop.text import folder as folder_lib
from mrl_jax.interop.text import modules as modules_lib
from mrl_jax.models import text
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

# Folder of the settings in a workdir; the weights are in its checkpoints.
_COPY = 'encoder'
# Endings of the files of settings; some also have a vocab.txt.
_SETTINGS = ('.json', '.txt')
_WEIGHTS = '.index.json'


def start(config: ConfigDict) -> pathlib.Path:
  """The folder that `init_from` names: one of an encoder, or a text run's.

  Raises ValueError if it is neither.
  """
  path = files.local(config.init_from, 'init_from')
  for found in (path, path / _COPY):
    if found.is_dir() and folder_lib.is_folder(found):
      return found
  raise ValueError(
    f'init_from {config.init_from!r}: the encoder pretrained needs a folder of '
    'Hugging Face or sentence-transformers, or the workdir of a run with one'
  )


def is_weights(config: ConfigDict) -> bool:
  """Whether the parameters come from the folder, not from another run."""
  return start(config) == files.local(config.init_from, 'init_from')


def copied(workdir: Workdir) -> pathlib.Path:
  """Where the workdir has the settings."""
  return workdir.path / _COPY


def copy(config: ConfigDict, workdir: Workdir) -> None:
  """Copies the settings, and the tokenizer, into the workdir."""
  source = start(config)
  with files.replacing_folder(copied(workdir)) as temporary:
    for path in sorted(source.rglob('*')):
      kept = path.suffix in _SETTINGS and not path.name.endswith(_WEIGHTS)
      if path.is_file() and kept:
        target = temporary / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def settings(folder: pathlib.Path) -> text.Settings:
  """The encoder's settings; needs no weights. ValueError if none can be."""
  modules = modules_lib.read(folder)
  if modules.lower_case:
    raise ValueError(f'{folder}: do_lower_case is not known to training')
  _, variant = architectures.read(modules.root / 'config.json')
  return text.Settings(
    backbone=variant,
    pooling=modules.pooling,
    projections=modules.projections,
    normalise=modules.normalise,
  )


def width(folder: pathlib.Path) -> int:
  """The width of the embedding."""
  found = settings(folder)
  widths = (found.backbone.width, *(x.width for x in found.projections))
  return widths[-1]


def tokenizer(folder: pathlib.Path) -> pathlib.Path:
  """The path of the folder's tokenizer.json."""
  return modules_lib.read(folder).root / folder_lib.TOKENIZER
