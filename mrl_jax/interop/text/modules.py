"""Reads modules.json of sentence-transformers, and the files it speaks of."""

import pathlib
from typing import Any, Literal, NamedTuple

import msgspec

from mrl_jax.models import text
from mrl_jax.workdir import files

NAME = 'modules.json'
MODEL = 'config_sentence_transformers.json'
# Names that the settings of the first module had in the course of time.
_FIRST = tuple(
  f'sentence_{kind}_config.json'
  for kind in ('bert', 'roberta', 'distilbert', 'camembert', 'xlm-roberta')
)
_POOLINGS = {
  'pooling_mode_cls_token': 'cls',
  'pooling_mode_max_tokens': 'max',
  'pooling_mode_mean_tokens': 'mean',
  'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
  'pooling_mode_weightedmean_tokens': 'weightedmean',
  'pooling_mode_lasttoken': 'lasttoken',
}
# Theirs, and ours.
POOLINGS = {'mean': 'mean', 'cls': 'cls', 'lasttoken': 'last'}
ACTIVATIONS = {
  'torch.nn.modules.linear.Identity': 'identity',
  'torch.nn.modules.activation.Tanh': 'tanh',
}


class _Module(msgspec.Struct):
  path: str
  type: str


class _Dense(msgspec.Struct):
  in_features: int
  out_features: int
  bias: bool = True
  activation_function: str = 'torch.nn.modules.activation.Tanh'
  use_residual: bool = False
  module_input_name: str = 'sentence_embedding'


class _First(msgspec.Struct):
  max_seq_length: int | None = None
  do_lower_case: bool = False


class _Model(msgspec.Struct):
  prompts: dict[str, str] = {}
  default_prompt_name: str | None = None


class Modules(NamedTuple):
  """What a folder says beside config.json.

  Attributes:
    root: the folder of the backbone, in which config.json and weights are.
    pooling: how states become an embedding.
    width: width of the states that the pooling is for; 0 if it is not stated.
    projections: the Dense modules.
    dense: their folders.
    normalise: whether embeddings are scaled to length 1.
    max_tokens: number of tokens at which texts are cut off; 0 if not stated.
    lower_case: whether texts are lowercased before the tokenizer.
    prompts: prompts by name.
    default_prompt: name of the prompt that is used where none is given; ''.
    is_static: whether the backbone is a StaticEmbedding.
  """

  root: pathlib.Path
  pooling: Literal['mean', 'cls', 'last'] = 'mean'
  width: int = 0
  projections: tuple[text.Projection, ...] = ()
  dense: tuple[pathlib.Path, ...] = ()
  normalise: bool = False
  max_tokens: int = 0
  lower_case: bool = False
  prompts: dict[str, str] = {}  # noqa: RUF012, of a NamedTuple.
  default_prompt: str = ''
  is_static: bool = False


def read(folder: pathlib.Path) -> Modules:
  """Reads modules.json and the files it speaks of.

  A folder without one is a bare encoder, whose states are averaged, as
  sentence-transformers does. Raises ValueError for a module that is not known.
  """
  listed = files.read_json(folder / NAME, list[_Module], missing=[])
  if not listed:
    return Modules(folder, **_first(folder), **_model(folder))
  kinds = [module.type.rpartition('.')[2] for module in listed]
  paths = [_inside(folder, module.path) for module in listed]
  found: dict[str, Any] = _first(paths[0]) | _model(folder)
  if kinds[0] == 'StaticEmbedding':
    # It is a mean already.
    kinds[:1], paths[:1] = ['Transformer', ''], paths[:1] * 2
    found['is_static'] = True
  elif kinds[0] != 'Transformer':
    raise ValueError(
      f'{folder / NAME} begins with {kinds[0]}: must be Transformer or '
      'StaticEmbedding'
    )
  projections, dense = [], []
  for i, (kind, path) in enumerate(zip(kinds[1:], paths[1:], strict=True)):
    is_last = i == len(kinds) - 2
    if not kind:
      continue
    if kind == 'Pooling' and not i:
      found |= _pooling(path / 'config.json')
    elif kind == 'Dense' and i:
      projections.append(_projection(path / 'config.json'))
      dense.append(path)
    elif kind == 'Normalize' and i and is_last:
      found['normalise'] = True
    else:
      raise ValueError(
        f'{folder / NAME} has {", ".join(kinds)}: must be Transformer, '
        'Pooling, then any Dense, then at most one Normalize'
      )
  if len(kinds) == 1:
    raise ValueError(f'{folder / NAME} has no Pooling')
  found |= {'projections': tuple(projections), 'dense': tuple(dense)}
  return Modules(paths[0], **found)


def pooling_json(pooling: str, width: int) -> dict[str, Any]:
  """The config.json of a Pooling module, as all versions read it."""
  (theirs,) = (name for name, ours in POOLINGS.items() if ours == pooling)
  content = {key: mode == theirs for key, mode in _POOLINGS.items()}
  return {
    'word_embedding_dimension': width,
    **content,
    'include_prompt': True,
  }


def dense_json(projection: text.Projection, width: int) -> dict[str, Any]:
  """The config.json of a Dense module, whose input has this width."""
  activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
  return {
    'in_features': width,
    'out_features': projection.width,
    'bias': projection.use_bias,
    'activation_function': activations[projection.activation],
  }


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path:
  path = folder / name
  if not path.resolve().is_relative_to(folder.resolve()):
    raise ValueError(f'{folder / NAME} speaks of {name!r}: must be within it')
  return path


def _first(folder: pathlib.Path) -> dict[str, Any]:
  names = [name for name in _FIRST if (folder / name).is_file()]
  if not names:
    return {}
  content = files.read_json(folder / names[0], _First)
  return {
    'max_tokens': content.max_seq_length or 0,
    'lower_case': content.do_lower_case,
  }


def _model(folder: pathlib.Path) -> dict[str, Any]:
  content = files.read_json(folder / MODEL, _Model, missing=_Model())
  return {
    'prompts': content.prompts,
    'default_prompt': content.default_prompt_name or '',
  }


def _pooling(path: pathlib.Path) -> dict[str, Any]:
  content = files.read_json(path)
  modes = content.get('pooling_mode')
  if modes is None:
    modes = [mode for key, mode in _POOLINGS.items() if content.get(key)]
    modes = modes or ['mean']
  modes = [modes] if isinstance(modes, str) else modes
  if len(modes) != 1 or modes[0] not in POOLINGS:
    raise ValueError(
      f'{path} says pooling {", ".join(modes)}: must be one of '
      f'{", ".join(POOLINGS)}'
    )
  if not content.get('include_prompt', True):
    raise ValueError(
      f'{path} says include_prompt false: pooling without the prompt is not '
      'known here'
    )
  width = content.get('embedding_dimension')
  width = width or content.get('word_embedding_dimension') or 0
  return {'pooling': POOLINGS[modes[0]], 'width': width}


def _projection(path: pathlib.Path) -> text.Projection:
  content = files.read_json(path, _Dense)
  if content.use_residual or content.module_input_name != 'sentence_embedding':
    raise ValueError(f'{path}: a Dense of this kind is not known here')
  if content.activation_function not in ACTIVATIONS:
    raise ValueError(
      f'{path} says activation_function {content.activation_function}: must be '
      f'one of {", ".join(ACTIVATIONS)}'
    )
  return text.Projection(
    content.out_features,
    content.bias,
    ACTIVATIONS[content.activation_function],
  )
