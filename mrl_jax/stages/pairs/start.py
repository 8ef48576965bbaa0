"""What each tower of a run starts from: `init_from.image`, `init_from.text`.

Either starts from a run on pairs, or a folder of CLIP or SigLIP; the image
tower also from a run on images or a file of PyTorch, the text tower from a run
on texts or a folder of a text encoder.
"""

import pathlib

from flax import nnx
from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax import terminal
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop import towers as interop_towers
from mrl_jax.interop.pytorch import load
from mrl_jax.interop.text import folder as text_folder
from mrl_jax.models import text as text_models
from mrl_jax.models import towers
from mrl_jax.stages import init_from
from mrl_jax.stages.text import pretrained
from mrl_jax.stages.text import tokenizer as tokenizer_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.checkpoint_faults import describe
from mrl_jax.training.checkpoint_faults import misfit
from mrl_jax.training.state import arrays_of
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir


def initialise(config: ConfigDict, model: towers.Towers) -> None:
  """Gives fresh towers the parameters that `init_from` names, if any.

  Where both towers come from one folder, their projections and the temperature
  come along, if the widths are the same. Raises ValueError for what is no such
  source, or has another encoder.
  """
  image, text = config.init_from.image, config.init_from.text
  for name, path in (('image', image), ('text', text)):
    if not path:
      continue
    if is_towers(path):
      folder = interop_towers.open_folder(path)
      loaded = folder.load(config.nesting_dims if image == text else ())
      _copy(getattr(loaded, name), getattr(model, name), path, name)
      if image == text and name == 'text':
        _copy_rest(loaded, model)
    elif name == 'text' and text_folder.is_folder(_path(path)):
      loaded = text_folder.open_folder(path).load()
      _copy(loaded, model.text, path, name)
    else:
      _from_run(config, model, name, path)
      continue
    terminal.say(f'train: the {name} tower starts from {path}')


def is_towers(path: str) -> bool:
  """Whether the path is a folder of CLIP or SigLIP."""
  folder = pathlib.Path(path).expanduser()
  if (folder / 'open_clip_config.json').is_file():
    return True
  config = folder / 'config.json'
  if not config.is_file():
    return False
  return files.read_json(config).get('model_type') in ('clip', 'siglip')


def tokenizer(config: ConfigDict) -> str:
  """The tokenizer.json of the text tower's start; empty if there is none."""
  if not config.init_from.text:
    return ''
  if config.pairs.text == 'pretrained':
    return str(pretrained.tokenizer(pretrained.start(_of_text(config))))
  return tokenizer_lib.beside(_path(config.init_from.text))


def text_settings(
  config: ConfigDict, workdir: Workdir | None = None
) -> text_models.Settings:
  """The settings of a pretrained text encoder, or of its copy in a workdir."""
  if workdir is None:
    if not config.init_from.text:
      raise ValueError("init_from.text '': must be given: pretrained")
    return pretrained.settings(pretrained.start(_of_text(config)))
  return pretrained.settings(pretrained.copied(workdir))


def copy_settings(config: ConfigDict, workdir: Workdir) -> None:
  """Copies the settings of a pretrained text encoder into the workdir."""
  pretrained.copy(_of_text(config), workdir)


def check_tokens(model: towers.Towers, tokens: Tokens) -> None:
  """Raises ValueError if the tokenizer has ids that the text tower has not."""
  if tokens.vocabulary_size > model.text.vocabulary_size:
    raise ValueError(
      f'{tokens.path} has {tokens.vocabulary_size} token ids, and the text '
      f'tower {model.text.vocabulary_size}: set pairs.vocabulary_size, or take '
      'the tokenizer that belongs to it'
    )


def _from_run(
  config: ConfigDict, model: towers.Towers, name: str, path: str
) -> None:
  """Starts a tower from that of a run on pairs, or from another encoder."""
  ours = getattr(model, name)
  if not load.is_file(path):
    directory, step = init_from.find_run(path)
    with Checkpoints(directory) as checkpoints:
      shapes = checkpoints.model_shapes(step)
      if {*towers.TOWERS} <= {*shapes['params']}:
        restored = checkpoints.restore_model(shapes, step)
        part = {kind: tree.get(name, {}) for kind, tree in restored.items()}
        if line := misfit(describe(part), describe(arrays_of(ours))):
          raise ValueError(f'init_from.{name} {path}: another encoder: {line}')
        init_from.update(ours, part)
        terminal.say(f'train: the {name} tower starts from {path}')
        return
  # As the encoder of a classifier, which is what runs and files have.
  plain = config.copy_and_resolve_references().to_dict()
  holder = models.Classifier(ours, (1,), 1, head='none', rngs=nnx.Rngs(0))
  init_from.initialise(ConfigDict({**plain, 'init_from': path}), holder)


def _copy(loaded, ours, path: str, name: str) -> None:
  if line := misfit(describe(arrays_of(loaded)), describe(arrays_of(ours))):
    raise ValueError(f'init_from.{name} {path}: another encoder: {line}')
  nnx.update(ours, nnx.state(loaded, nnx.Param))


def _copy_rest(loaded: towers.Towers, model: towers.Towers) -> None:
  for name in ('image_projection', 'text_projection'):
    there, here = getattr(loaded, name), getattr(model, name)
    if there is None or here is None:
      return
    if misfit(describe(arrays_of(there)), describe(arrays_of(here))):
      return
  for name in ('image_projection', 'text_projection', 'log_scale', 'bias'):
    if hasattr(loaded, name) and hasattr(model, name):
      if name.endswith('projection'):
        nnx.update(getattr(model, name), nnx.state(getattr(loaded, name)))
      else:
        getattr(model, name)[...] = getattr(loaded, name)[...]


def _of_text(config: ConfigDict) -> ConfigDict:
  """The config of a run on texts, of which the start alone is read."""
  return ConfigDict({'init_from': config.init_from.text})


def _path(path: str) -> pathlib.Path:
  return files.local(path, 'init_from')
