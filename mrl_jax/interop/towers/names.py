"""The names of the arrays of CLIP and SigLIP, by transformers and open_clip."""

from collections.abc import Mapping
import re

from jax import numpy as jnp
import numpy as np

from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch.arrays import Slot
from mrl_jax.models import towers as towers_lib

Table = Mapping[str, tuple[str, ...]]
# Our modules and parameters, and theirs; # stands for a block's number. Several
# of theirs are the columns of one of ours. A name that ends in `_` has no dot
# before `weight` and `bias`; one that ends in `=` is a parameter's whole name,
# whose axes are in our order.
_HF_BLOCK = {
  'qkv': tuple(f'self_attn.{x}_proj' for x in 'qkv'),
  'proj': ('self_attn.out_proj',),
  'norm1': ('layer_norm1',),
  'norm2': ('layer_norm2',),
  'fc1': ('mlp.fc1',),
  'fc2': ('mlp.fc2',),
}
_OPEN_CLIP_BLOCK = {
  'qkv': ('attn.in_proj_',),
  'proj': ('attn.out_proj',),
  'norm1': ('ln_1',),
  'norm2': ('ln_2',),
  'fc1': ('mlp.c_fc',),
  'fc2': ('mlp.c_proj',),
}


def _blocks(ours: str, theirs: str, table: Table) -> Table:
  return {
    f'{ours}.blocks.#.{name}': tuple(f'{theirs}.#.{x}' for x in found)
    for name, found in table.items()
  }


_HF = {
  'image.patch_embed': ('vision_model.embeddings.patch_embedding',),
  'image.position_embedding': ('vision_model.embeddings.position_embedding',),
  'image.norm': ('vision_model.post_layernorm',),
  **_blocks('image', 'vision_model.encoder.layers', _HF_BLOCK),
  'text.backbone.word_embedding': ('text_model.embeddings.token_embedding',),
  'text.backbone.position_embedding': (
    'text_model.embeddings.position_embedding',
  ),
  'text.backbone.norm': ('text_model.final_layer_norm',),
  **_blocks('text.backbone', 'text_model.encoder.layers', _HF_BLOCK),
  'log_scale': ('logit_scale=',),
}
_HEAD = 'vision_model.head'
TABLES = {
  'clip': _HF
  | {
    'image.class_token': ('vision_model.embeddings.class_embedding=',),
    'image.stem_norm': ('vision_model.pre_layrnorm',),
    'image_projection': ('visual_projection',),
    'text_projection': ('text_projection',),
  },
  'siglip': _HF
  | {
    'image.attention_pool.query': (f'{_HEAD}.probe=',),
    'image.attention_pool.qkv': (f'{_HEAD}.attention.in_proj_',),
    'image.attention_pool.proj': (f'{_HEAD}.attention.out_proj',),
    'image.attention_pool.norm': (f'{_HEAD}.layernorm',),
    'image.attention_pool.fc1': (f'{_HEAD}.mlp.fc1',),
    'image.attention_pool.fc2': (f'{_HEAD}.mlp.fc2',),
    'text_projection': ('text_model.head',),
    'bias': ('logit_bias=',),
  },
  'open_clip': {
    'image.class_token': ('visual.class_embedding=',),
    'image.patch_embed': ('visual.conv1',),
    'image.position_embedding': ('visual.positional_embedding=',),
    'image.stem_norm': ('visual.ln_pre',),
    **_blocks('image', 'visual.transformer.resblocks', _OPEN_CLIP_BLOCK),
    'image.norm': ('visual.ln_post',),
    'image_projection': ('visual.proj=',),
    'text.backbone.word_embedding': ('token_embedding',),
    'text.backbone.position_embedding': ('positional_embedding=',),
    **_blocks('text.backbone', 'transformer.resblocks', _OPEN_CLIP_BLOCK),
    'text.backbone.norm': ('ln_final',),
    'text_projection': ('text_projection=',),
    'log_scale': ('logit_scale=',),
  },
}
# Numbers that are no parameters, in older files.
_BESIDE = re.compile(
  r'(^|\.)(position_ids|attn_mask)$|^(input_resolution|context_length|'
  r'vocab_size)$'
)
# What open_clip calls the text tower where it is a module of its own.
_TEXT = re.compile(
  r'^text\.(?=(token_embedding|positional_embedding|transformer|ln_final|'
  r'text_projection)\b)'
)


def slots(model: towers_lib.Towers, style: str) -> dict[str, Slot]:
  """The place of each array of a checkpoint, by its key; see `TABLES`."""
  table, found = TABLES[style], {}
  for path, x in arrays.arrays(model).items():
    module, leaf = _leaf(path)
    block = re.search(r'\.(\d+)\.', module)
    theirs = table[re.sub(r'\.\d+\.', '.#.', module)]
    width = x.shape[-1] // len(theirs)
    for i, name in enumerate(theirs):
      name = name.replace('#', block[1]) if block else name
      key, axes = _key(name, leaf, x)
      index = (..., slice(i * width, (i + 1) * width))
      ours = (*x.shape[:-1], width)
      shape = tuple(ours[axis] for axis in np.argsort(axes))
      if path in ('log_scale', 'bias'):
        # One number there, which every width begins with.
        index, shape = (...,), (1,) if style == 'siglip' else ()
        axes = tuple(range(len(shape)))
      elif not leaf and path != 'image.attention_pool.query':
        index, axes, shape = _plain(x)
      found[key] = Slot(path, index, axes, shape)
  return found


def keys(names: list[str], style: str) -> tuple[dict[str, str], list[str]]:
  """The names of a checkpoint by the keys of `slots`, and those left out."""
  found, beside = {}, []
  for name in names:
    if _BESIDE.search(name):
      beside.append(name)
    else:
      is_theirs = style == 'open_clip'
      found[_TEXT.sub('', name) if is_theirs else name] = name
  return found, beside


def _leaf(path: str) -> tuple[str, str]:
  """Module and kind of one of our arrays; '' for a parameter of its own."""
  module, _, leaf = path.rpartition('.')
  if leaf in ('qkv_kernel', 'qkv_bias'):
    return f'{module}.qkv', leaf.removeprefix('qkv_')
  if leaf in ('kernel', 'bias', 'scale') and module:
    return module, leaf
  return path, ''


def _key(name: str, leaf: str, x: jnp.ndarray) -> tuple[str, tuple[int, ...]]:
  """Their key, and the axes that bring their array into our order."""
  if name.endswith('='):
    return name[:-1], tuple(range(x.ndim))
  end = 'bias' if leaf == 'bias' else 'weight'
  key = f'{name}{"" if name.endswith("_") else "."}{end}'
  axes = {4: (2, 3, 1, 0), 2: (1, 0)} if leaf == 'kernel' else {}
  return key, axes.get(x.ndim, tuple(range(x.ndim)))


def _plain(x: jnp.ndarray) -> tuple:
  """Index, axes and shape of a parameter that theirs have fewer axes of."""
  ones = 0
  while ones < x.ndim - 1 and x.shape[ones] == 1:
    ones += 1
  shape = x.shape[ones:]
  return (0,) * ones, tuple(range(len(shape))), shape
