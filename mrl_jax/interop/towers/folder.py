"""Reads a folder of CLIP or SigLIP, strictly, without PyTorch.

It is one that transformers writes (config.json, model.safetensors and
tokenizer.json), or one of open_clip with the layout of OpenAI's CLIP
(open_clip_config.json, open_clip_model.safetensors).
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any, NamedTuple

from flax import nnx
from jax import numpy as jnp

from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop.pytorch import file
from mrl_jax.interop.pytorch.file import Stored
from mrl_jax.interop.text import folder as text_folder
from mrl_jax.interop.towers import names
from mrl_jax.models import clip_text
from mrl_jax.models import text
from mrl_jax.models import towers
from mrl_jax.models import vit
from mrl_jax.workdir import files

_OPEN_CLIP = 'open_clip_config.json'
_OPEN_CLIP_WEIGHTS = (
  'open_clip_model.safetensors',
  'open_clip_pytorch_model.bin',
)
# The fields of variants by the keys of config.json.
_BLOCKS = {
  'hidden_size': 'width',
  'intermediate_size': 'hidden',
  'num_hidden_layers': 'depth',
  'num_attention_heads': 'num_heads',
  'hidden_act': 'activation',
  'layer_norm_eps': 'epsilon',
}
_VISION = _BLOCKS | {'patch_size': 'patch'}
_TEXT = _BLOCKS | {
  'vocab_size': 'vocabulary_size',
  'max_position_embeddings': 'max_tokens',
}
_ACTIVATIONS = {'gelu_pytorch_tanh': 'gelu_new', 'gelu_fast': 'gelu_new'}
# What transformers leaves out of config.json, by the model's type.
_DEFAULTS = {
  'clip': (vit.VARIANTS['clip_vit_b32'], clip_text.Variant(), 512),
  'siglip': (vit.VARIANTS['siglip_b16'], clip_text.SIGLIP, 0),
}


class Folder(NamedTuple):
  """An open folder.

  Attributes:
    path: the folder.
    style: the layout of its arrays, a key of `names.TABLES`.
    image: the geometry of the image encoder.
    image_size: side of its images in pixels.
    text: the geometry of the text encoder.
    image_projection: the layer behind the image encoder, or None.
    text_projection: the layer behind the text encoder, or None.
    tensors: the arrays by name, read when they are needed.
  """

  path: pathlib.Path
  style: str
  image: vit.Variant
  image_size: int
  text: clip_text.Variant
  image_projection: text.Projection | None
  text_projection: text.Projection | None
  tensors: Mapping[str, Stored]

  @property
  def kind(self) -> str:
    """The loss that it was trained with."""
    return 'sigmoid' if self.style == 'siglip' else 'contrastive'

  def load(
    self, nesting_dims: Sequence[int] = (), *, dtype: jnp.dtype = jnp.float32
  ) -> towers.Towers:
    """The towers with the folder's parameters.

    `nesting_dims` are those to train on; without, the whole width alone. Every
    parameter must be in the folder, and every array of the folder must be used.
    Raises ValueError otherwise.
    """
    model = nnx.eval_shape(lambda: self._create(nesting_dims, dtype))
    found, _ = names.keys([*self.tensors], self.style)
    text_folder.fill(
      self.path, model, names.slots(model, self.style), found, self.tensors
    )
    return model

  def tokens(self) -> Tokens:
    """The folder's tokenizer, which cuts texts to the encoder's length."""
    tokens = Tokens(self.path / text_folder.TOKENIZER, self.text.max_tokens)
    if tokens.vocabulary_size > self.text.vocabulary_size:
      raise ValueError(
        f'{tokens.path} has token ids up to {tokens.vocabulary_size - 1}: the '
        f'encoder has embeddings of {self.text.vocabulary_size} tokens'
      )
    return tokens

  def _create(self, nesting_dims, dtype) -> towers.Towers:
    rngs = nnx.Rngs(0)
    is_siglip = self.style == 'siglip'
    settings = text.Settings(
      self.text, pooling='final' if is_siglip else 'last', normalise=False
    )
    projection = self.text_projection
    width = projection.width if projection else self.text.width
    return towers.Towers(
      vit.ViT(self.image, image_size=self.image_size, dtype=dtype, rngs=rngs),
      text.create(settings, dtype=dtype, rngs=rngs),
      tuple(nesting_dims) or (width,),
      image_projection=self.image_projection,
      text_projection=projection,
      kind=self.kind,
      rngs=rngs,
    )


def open_folder(path: str | os.PathLike) -> Folder:
  """Opens a folder, and reads its settings.

  Raises ValueError if a file is missing or damaged, or says something that no
  encoder here is.
  """
  folder = files.local(path, 'folder')
  if (folder / _OPEN_CLIP).is_file():
    return _open_clip(folder)
  config_json = folder / 'config.json'
  config = files.read_json(config_json)
  style = config.get('model_type')
  if style not in _DEFAULTS:
    raise ValueError(
      f"{config_json} says that it is transformers' {style}: must be one of "
      f'{", ".join(_DEFAULTS)}'
    )
  image, text_, width = _DEFAULTS[style]
  vision, texts = (_part(config, name) for name in ('vision', 'text'))
  name = str(config_json)
  image = _variant(name, image, _VISION, vision)
  text_ = _variant(name, text_, _TEXT, texts)
  if style == 'siglip':
    if not vision.get('vision_use_head', True):
      raise ValueError(f'{name} says vision_use_head false: must be true')
    pad = texts.get('pad_token_id', 1)
    text_ = files.checked(
      {**vars(text_), 'read_padding': pad}, name, clip_text.Variant
    )
    width = texts.get('projection_size') or text_.width
    projections = None, text.Projection(width)
  else:
    width = config.get('projection_dim', width)
    projections = (text.Projection(width, use_bias=False),) * 2
  size = vision.get('image_size', 224)
  return Folder(
    folder,
    style,
    image,
    size,
    text_,
    *projections,
    text_folder.read_tensors(folder),
  )


def _open_clip(folder: pathlib.Path) -> Folder:
  """The same of open_clip's files."""
  name = folder / _OPEN_CLIP
  config = files.read_json(name).get('model_cfg') or {}
  vision, texts = (config.get(x) for x in ('vision_cfg', 'text_cfg'))
  known = {'image_size', 'layers', 'width', 'patch_size', 'head_width'}
  known |= {'mlp_ratio', 'context_length', 'vocab_size', 'heads'}
  for part in (vision, texts):
    if not isinstance(part, dict) or (odd := sorted(part.keys() - known)):
      raise ValueError(
        f'{name} has {odd[0] if part else "no towers"}: must have the layout '
        "of OpenAI's CLIP"
      )
  activation = 'quick_gelu' if config.get('quick_gelu') else 'gelu'
  shared = {'activation': activation, 'epsilon': 1e-5}
  ratio = lambda part: int(part['width'] * part.get('mlp_ratio', 4))
  try:
    image = {
      'width': vision['width'],
      'depth': vision['layers'],
      'num_heads': vision['width'] // vision.get('head_width', 64),
      'patch': vision['patch_size'],
      'hidden': ratio(vision),
      'stem_norm': True,
    }
    text_ = {
      'vocabulary_size': texts['vocab_size'],
      'width': texts['width'],
      'depth': texts['layers'],
      'num_heads': texts['heads'],
      'hidden': ratio(texts),
      'max_tokens': texts['context_length'],
    }
    size, width = vision['image_size'], config['embed_dim']
  except KeyError as error:
    raise ValueError(f'{name} does not say {error}') from None
  there = [x for x in _OPEN_CLIP_WEIGHTS if (folder / x).is_file()]
  if not there:
    raise ValueError(f'{folder} has no weights: must have {_OPEN_CLIP_WEIGHTS}')
  return Folder(
    folder,
    'open_clip',
    files.checked(image | shared, str(name), vit.Variant),
    size,
    files.checked(text_ | shared, str(name), clip_text.Variant),
    *(text.Projection(width, use_bias=False),) * 2,
    file.open_tensors(folder / there[0]),
  )


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
  """The settings of a tower, which older files have twice."""
  return {
    **(config.get(f'{name}_config') or {}),
    **(config.get(f'{name}_config_dict') or {}),
  }


def _variant(
  name: str, default: Any, keys: Mapping[str, str], stated: Mapping[str, Any]
) -> Any:
  """The geometry that a part of config.json states; the rest is `default`'s."""
  found = {
    ours: stated[key]
    for key, ours in keys.items()
    if stated.get(key) is not None
  }
  activation = found.get('activation', default.activation)
  found['activation'] = _ACTIVATIONS.get(activation, activation)
  if stated.get('num_channels', 3) != 3:
    raise ValueError(f'{name} says num_channels: must be 3')
  return files.checked({**vars(default), **found}, name, type(default))
