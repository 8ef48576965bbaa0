"""Reads a folder of Hugging Face or sentence-transformers, strictly.

No code in it is run, and neither PyTorch nor transformers is needed, but for
weights that are a pickle (`pytorch_model.bin`).
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any, NamedTuple

from flax import nnx
from jax import numpy as jnp

from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop import export_folder
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch import file
from mrl_jax.interop.pytorch.arrays import Slot
from mrl_jax.interop.pytorch.file import Stored
from mrl_jax.interop.pytorch.network import listed
from mrl_jax.interop.text import architectures
from mrl_jax.interop.text import modules as modules_lib
from mrl_jax.interop.text import names
from mrl_jax.interop.text.modules import Modules
from mrl_jax.models import static_text
from mrl_jax.models import text
from mrl_jax.workdir import files

WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_PICKLE = 'pytorch_model.bin'
TOKENIZER = 'tokenizer.json'
# Static embeddings have no positions that would end.
_STATIC_TOKENS = 1 << 17


class Folder(NamedTuple):
  """An open folder.

  Attributes:
    path: the folder with config.json, the weights and the tokenizer.
    kind: the `model_type` of config.json.
    config: the content of config.json.
    settings: the encoder's settings.
    modules: what modules.json and the files beside it say.
    tensors: the backbone's arrays by name, read when they are needed.
    left_out: the arrays that the encoder does not need.
  """

  path: pathlib.Path
  kind: str
  config: Mapping[str, Any]
  settings: text.Settings
  modules: Modules
  tensors: Mapping[str, Stored]
  left_out: tuple[str, ...]

  def load(self, dtype: jnp.dtype = jnp.float32) -> text.TextEncoder:
    """The encoder with the folder's parameters.

    Every parameter must be in the folder, and every array of the folder must be
    used, but for `left_out`. Raises ValueError otherwise.
    """
    encoder = nnx.eval_shape(
      lambda: text.create(self.settings, dtype=dtype, rngs=nnx.Rngs(0))
    )
    self._fill_backbone(encoder.backbone)
    for layer, dense in zip(
      encoder.projections, self.modules.dense, strict=True
    ):
      tensors = _tensors(dense)
      _fill(dense, layer, linear_slots(layer), {x: x for x in tensors}, tensors)
    return encoder

  def tokens(self) -> Tokens:
    """The folder's tokenizer, which cuts texts off where the folder says.

    Raises ValueError if it is missing, or has ids beyond the embeddings.
    """
    backbone = self.settings.backbone
    stated = files.read_json(self.path / 'tokenizer_config.json', missing={})
    limits = self.modules.max_tokens or stated.get('model_max_length')
    # transformers writes 1e30 for none.
    most = min(int(limits or backbone.max_tokens), backbone.max_tokens)
    tokens = Tokens(self.path / TOKENIZER, most)
    if tokens.vocabulary_size > backbone.vocabulary_size:
      raise ValueError(
        f'{tokens.path} has token ids up to {tokens.vocabulary_size - 1}: the '
        f'encoder has embeddings of {backbone.vocabulary_size} tokens'
      )
    if self.modules.is_static and tokens.ids([''])[0]:
      raise ValueError(
        f'{tokens.path} adds special tokens, which static embeddings have none '
        'of: remove its post_processor'
      )
    return tokens

  def nesting_dims(self) -> tuple[int, ...]:
    """The widths that the embedding was trained for; () if none are stated."""
    return tuple(self.config.get('matryoshka_dimensions') or ())

  def _fill_backbone(self, backbone: nnx.Module) -> None:
    found, _ = names.keys(self.tensors, self.kind)
    slots = names.slots(backbone, self.kind)
    table = next(
      key
      for key, slot in slots.items()
      if slot.path in ('word_embedding', 'embeddings')
    )
    rows = self.tensors[found[table]].shape[0]
    if rows != self.settings.backbone.vocabulary_size:
      raise ValueError(
        f'{self.path}: {found[table]} has {rows} rows, and config.json says '
        f'vocab_size {self.settings.backbone.vocabulary_size}'
      )
    _fill(self.path, backbone, slots, found, self.tensors)


def open_folder(path: str | os.PathLike) -> Folder:
  """Opens a folder, and reads its settings.

  Raises ValueError if a file is missing or damaged, or says something that no
  text encoder here is.
  """
  folder = files.local(path, 'folder')
  modules = modules_lib.read(folder)
  root = modules.root
  tensors = _tensors(root)
  if modules.is_static:
    kind, variant = names.STATIC, _static(root, tensors)
  else:
    kind, variant = architectures.read(root / 'config.json')
  try:
    _, left_out = names.keys(tensors, kind)
  except ValueError as error:
    raise ValueError(f'{root}: {error}') from None
  settings = text.Settings(
    backbone=variant,
    pooling=modules.pooling,
    projections=modules.projections,
    normalise=modules.normalise,
  )
  if modules.width not in (0, variant.width):
    raise ValueError(
      f'{folder}: the pooling is for states of width {modules.width}, the '
      f'encoder has {variant.width}'
    )
  config = files.read_json(root / 'config.json', missing={})
  return Folder(
    root, kind, config, settings, modules, tensors, tuple(sorted(left_out))
  )


def _static(
  path: pathlib.Path, tensors: Mapping[str, Stored]
) -> static_text.Variant:
  shapes = [x.shape for x in tensors.values()]
  if [*tensors] != ['embedding.weight'] or len(shapes[0]) != 2:
    raise ValueError(
      f'{path} has {listed([*tensors])}: must have embedding.weight alone'
    )
  return static_text.Variant(
    *shapes[0], max_tokens=_STATIC_TOKENS, weighted=False
  )


def is_folder(path: pathlib.Path) -> bool:
  """Whether it is a folder of Hugging Face or sentence-transformers."""
  if (path / modules_lib.NAME).is_file():
    return True
  # An export of images has a config.json, too, which its own reader checks.
  if (path / export_folder.ARTIFACT).is_file():
    return False
  config = path / 'config.json'
  return config.is_file() and 'model_type' in files.read_json(config)


def find(path: str | os.PathLike) -> pathlib.Path | None:
  """Such a folder, if there is one: the given one, or `export` in that."""
  given = pathlib.Path(path).expanduser()
  return next(filter(is_folder, (given, given / 'export')), None)


def _tensors(folder: pathlib.Path) -> dict[str, Stored]:
  """The arrays of a folder's weights, which may be split over files."""
  index = folder / _INDEX
  if (folder / WEIGHTS).is_file():
    return file.open_tensors(folder / WEIGHTS)
  if index.is_file():
    where = files.read_json(index, dict[str, Any]).get('weight_map', {})
    found = {}
    for name in sorted({*where.values()}):
      if pathlib.PurePath(name).name != name:
        raise ValueError(
          f'{index} speaks of {name!r}: must be a file beside it'
        )
      found |= file.open_tensors(folder / name)
    if found.keys() != where.keys():
      odd = listed(sorted(found.keys() ^ where.keys()))
      raise ValueError(f'{index} does not fit the files beside it: {odd}')
    return found
  if (folder / _PICKLE).is_file():
    return file.open_tensors(folder / _PICKLE)
  raise ValueError(f'{folder} has no weights: must have {WEIGHTS}')


def linear_slots(layer: nnx.Linear) -> dict[str, Slot]:
  """The place of each array of a Dense module, by its key."""
  D, E = layer.in_features, layer.out_features
  found = {'linear.weight': Slot('kernel', (...,), (1, 0), (E, D))}
  if layer.use_bias:
    found['linear.bias'] = Slot('bias', (...,), (0,), (E,))
  return found


def _fill(
  path: pathlib.Path,
  module: nnx.Module,
  slots: Mapping[str, Slot],
  keys: Mapping[str, str],
  tensors: Mapping[str, Stored],
) -> None:
  left_over = [name for key, name in keys.items() if key not in slots]
  unfilled = [
    f'{slot.path} ({key})' for key, slot in slots.items() if key not in keys
  ]
  if left_over or unfilled:
    raise ValueError(
      f'{path} does not fit its config.json. Left over in the file: '
      f'{listed(left_over) or "nothing"}. Left unfilled here, with the key '
      f'that is missing: {listed(unfilled) or "nothing"}'
    )
  read = lambda key: tensors[keys[key]].weights(keys[key])
  try:
    arrays.fill(module, slots, read)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
