"""The names of a text encoder's arrays in Hugging Face's checkpoints."""

from collections.abc import Iterable, Mapping
import re

from flax import nnx

from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch.arrays import Slot

# Our modules, and theirs; # stands for a block's number. Several modules of
# theirs are the columns of one of ours.
_BERT = {
  'word_embedding': ('embeddings.word_embeddings',),
  'position_embedding': ('embeddings.position_embeddings',),
  'type_embedding': ('embeddings.token_type_embeddings',),
  'norm': ('embeddings.LayerNorm',),
  'blocks.#.qkv': tuple(
    f'encoder.layer.#.attention.self.{x}' for x in ('query', 'key', 'value')
  ),
  'blocks.#.proj': ('encoder.layer.#.attention.output.dense',),
  'blocks.#.norm1': ('encoder.layer.#.attention.output.LayerNorm',),
  'blocks.#.fc1': ('encoder.layer.#.intermediate.dense',),
  'blocks.#.fc2': ('encoder.layer.#.output.dense',),
  'blocks.#.norm2': ('encoder.layer.#.output.LayerNorm',),
}
_MPNET = _BERT | {
  'blocks.#.qkv': tuple(f'encoder.layer.#.attention.attn.{x}' for x in 'qkv'),
  'blocks.#.proj': ('encoder.layer.#.attention.attn.o',),
  'blocks.#.norm1': ('encoder.layer.#.attention.LayerNorm',),
  'relative_bias': ('encoder.relative_attention_bias',),
}
_DISTILBERT = {
  **{key: x for key, x in _BERT.items() if not key.startswith('blocks')},
  'blocks.#.qkv': tuple(
    f'transformer.layer.#.attention.{x}_lin' for x in 'qkv'
  ),
  'blocks.#.proj': ('transformer.layer.#.attention.out_lin',),
  'blocks.#.norm1': ('transformer.layer.#.sa_layer_norm',),
  'blocks.#.fc1': ('transformer.layer.#.ffn.lin1',),
  'blocks.#.fc2': ('transformer.layer.#.ffn.lin2',),
  'blocks.#.norm2': ('transformer.layer.#.output_layer_norm',),
}
_MODERNBERT = {
  'word_embedding': ('embeddings.tok_embeddings',),
  'norm1': ('embeddings.norm',),
  'norm': ('final_norm',),
  'blocks.#.norm1': ('layers.#.attn_norm',),
  'blocks.#.qkv': ('layers.#.attn.Wqkv',),
  'blocks.#.proj': ('layers.#.attn.Wo',),
  'blocks.#.norm2': ('layers.#.mlp_norm',),
  'blocks.#.fc1': ('layers.#.mlp.Wi',),
  'blocks.#.fc2': ('layers.#.mlp.Wo',),
}
# StaticEmbedding of sentence-transformers.
STATIC = 'static'
_STATIC = {'embeddings': ('embedding',)}
# By the `model_type` of config.json; others have BERT's names.
_NAMES = {
  'mpnet': _MPNET,
  'distilbert': _DISTILBERT,
  'modernbert': _MODERNBERT,
  STATIC: _STATIC,
}
# What checkpoints hold beside an encoder: numbers that are no parameters, the
# layer behind BERT's first token that sentence embeddings do without, and the
# heads of pre-training and of classification.
_BESIDE = re.compile(
  r'(^|\.)(position_ids|token_type_ids|inv_freq|pooler\.\w.*)$|'
  r'^(cls|lm_head|head|decoder|classifier|pre_classifier|qa_outputs|'
  r'vocab_(transform|layer_norm|projector))\.'
)
# The names that LayerNorm's parameters have in Google's own checkpoints.
_OLD_ENDS = {'.gamma': '.weight', '.beta': '.bias'}


def slots(backbone: nnx.Module, kind: str) -> dict[str, Slot]:
  """The place of each array of a checkpoint, by its key without a prefix.

  `kind` is the `model_type` of config.json, or `STATIC`.
  """
  table = _NAMES.get(kind, _BERT)
  found = {}
  for path, x in arrays.arrays(backbone).items():
    module, _, leaf = path.rpartition('.')
    if leaf not in ('kernel', 'bias', 'scale'):
      module, leaf = path, ''
    block = re.search(r'\.(\d+)\.', module)
    theirs = table[re.sub(r'\.\d+\.', '.#.', module)]
    axes = (1, 0) if leaf == 'kernel' else tuple(range(x.ndim))
    width = x.shape[-1] // len(theirs)
    ours = (*x.shape[:-1], width)
    shape = tuple(ours[axis] for axis in axes)
    for i, name in enumerate(theirs):
      name = name.replace('#', block[1]) if block else name
      end = '.bias' if leaf == 'bias' else '.weight'
      part = (..., slice(i * width, (i + 1) * width))
      found[name + end] = Slot(path, part, axes, shape)
  return found


def keys(
  names: Iterable[str], kind: str
) -> tuple[Mapping[str, str], list[str]]:
  """The names of a checkpoint by the keys of `slots`, and those left out.

  Whatever precedes the encoder's names, such as `bert.`, is found and removed.
  Raises ValueError unless the checkpoint has one table of token embeddings.
  """
  names = [*names]
  table = _NAMES.get(kind, _BERT)
  (first,) = table.get('word_embedding') or table['embeddings']
  prefixes = [
    name.removesuffix(f'{first}.weight')
    for name in names
    if name == f'{first}.weight' or name.endswith(f'.{first}.weight')
  ]
  if len(prefixes) != 1:
    raise ValueError(
      f'it has {len(prefixes)} arrays {first}.weight, and must have one: it is '
      f'no {kind}'
    )
  (prefix,) = prefixes
  found, beside = {}, []
  for name in names:
    key = name.removeprefix(prefix)
    if _BESIDE.search(key):
      beside.append(name)
      continue
    for old, new in _OLD_ENDS.items():
      if key.endswith(old):
        key = key.removesuffix(old) + new
    found[key] = name
  return found, beside
