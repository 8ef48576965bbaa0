"""Towers in the layout of transformers' CLIP or SigLIP, where they are one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.towers import names
from mrl_jax.models import clip_text
from mrl_jax.models import towers as towers_lib
from mrl_jax.models import vit

_CLASSES = {'clip': 'CLIPModel', 'siglip': 'SiglipModel'}
_ACTIVATIONS = {'gelu_new': 'gelu_pytorch_tanh'}


def style_of(model: towers_lib.Towers) -> str:
  """`clip` or `siglip` if transformers has such towers; '' if it has not."""
  image, settings = model.image, model.text.settings
  text = settings.backbone
  if not isinstance(image, vit.ViT) or settings.projections:
    return ''
  if not isinstance(text, clip_text.Variant):
    return ''
  layers = (model.image_projection, model.text_projection)
  biased = [None if x is None else x.bias is not None for x in layers]
  found = (
    image.variant.pooling,
    image.variant.stem_norm,
    text.causal,
    settings.pooling,
    *biased,
  )
  if found == ('token', True, True, 'last', False, False):
    return 'clip'
  if found == ('attention', False, False, 'final', None, True):
    return 'siglip'
  return ''


def tensors(model: towers_lib.Towers) -> dict[str, np.ndarray]:
  """The arrays by transformers' names, or by our own where it has no such.

  transformers has one temperature, and one bias: those of the whole width.
  """
  style = style_of(model)
  if not style:
    found = arrays.arrays(model)
    return {name: np.ascontiguousarray(x) for name, x in found.items()}
  slots = names.slots(model, style)
  numbers = {key for key, x in slots.items() if x.path in ('log_scale', 'bias')}
  found = arrays.taken(
    model, {key: x for key, x in slots.items() if key not in numbers}
  )
  for key in numbers:
    last = getattr(model, slots[key].path)[...][-1]
    found[key] = np.asarray(last).reshape(slots[key].shape)
  return found


def config_json(model: towers_lib.Towers, tokens: Tokens) -> dict[str, Any]:
  """What config.json says to transformers; empty without `style_of`."""
  style = style_of(model)
  if not style:
    return {}
  text, image = model.text.settings.backbone, model.image.variant
  width = model.embedding_dim
  texts = _block(text) | {
    'vocab_size': text.vocabulary_size,
    'max_position_embeddings': text.max_tokens,
    'pad_token_id': tokens.pad_id,
  }
  if style == 'siglip':
    texts['projection_size'] = width
  else:
    # The token at which CLIP reads a text.
    texts['projection_dim'] = width
    texts['eos_token_id'] = tokens.ids(['a'])[0][-1]
  vision = _block(image) | {
    'image_size': model.image.image_size,
    'patch_size': image.patch,
  }
  found = {
    'model_type': style,
    'architectures': [_CLASSES[style]],
    'text_config': texts,
    'vision_config': vision,
  }
  if style == 'clip':
    vision['projection_dim'] = found['projection_dim'] = width
  return found


def _block(variant: Any) -> Mapping[str, Any]:
  activation = variant.activation
  return {
    'hidden_size': variant.width,
    'intermediate_size': variant.hidden or 4 * variant.width,
    'num_hidden_layers': variant.depth,
    'num_attention_heads': variant.num_heads,
    'hidden_act': _ACTIVATIONS.get(activation, activation),
    'layer_norm_eps': variant.epsilon,
  }
