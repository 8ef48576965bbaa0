"""Hugging Face's config.json of a text encoder, read and written."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any, NamedTuple

from mrl_jax.models import bert
from mrl_jax.models import modernbert
from mrl_jax.workdir import files

Variant = bert.Variant | modernbert.Variant

# The fields of variants by the keys of config.json. A key that is missing there
# has the default of the variant, which is transformers'.
_BERT = {
  'vocab_size': 'vocabulary_size',
  'hidden_size': 'width',
  'num_hidden_layers': 'depth',
  'num_attention_heads': 'num_heads',
  'intermediate_size': 'hidden',
  'max_position_embeddings': 'max_tokens',
  'type_vocab_size': 'num_types',
  'layer_norm_eps': 'epsilon',
  'hidden_act': 'activation',
  'hidden_dropout_prob': 'dropout',
  'attention_probs_dropout_prob': 'attention_dropout',
}
_MPNET = _BERT | {'relative_attention_num_buckets': 'relative_buckets'}
del _MPNET['type_vocab_size']
_DISTILBERT = {
  'vocab_size': 'vocabulary_size',
  'dim': 'width',
  'n_layers': 'depth',
  'n_heads': 'num_heads',
  'hidden_dim': 'hidden',
  'max_position_embeddings': 'max_tokens',
  'activation': 'activation',
  'dropout': 'dropout',
  'attention_dropout': 'attention_dropout',
}
_MODERNBERT = {
  'vocab_size': 'vocabulary_size',
  'hidden_size': 'width',
  'num_hidden_layers': 'depth',
  'num_attention_heads': 'num_heads',
  'intermediate_size': 'hidden',
  'max_position_embeddings': 'max_tokens',
  'norm_eps': 'epsilon',
  'norm_bias': 'norm_bias',
  'attention_bias': 'attention_bias',
  'mlp_bias': 'mlp_bias',
  'embedding_dropout': 'embedding_dropout',
  'attention_dropout': 'attention_dropout',
  'mlp_dropout': 'mlp_dropout',
}


class Architecture(NamedTuple):
  """An architecture that config.json can state.

  Attributes:
    class_name: transformers' class of the bare encoder.
    make: makes the variant from its fields.
    fields: the variant's fields by the keys of config.json.
    required: other keys, and the one value of each that encoders here have.
    traits: fields of the variant that config.json does not state.
    pad_token: the padding token's id, where positions begin behind it.
  """

  class_name: str
  make: Callable[..., Variant]
  fields: Mapping[str, str]
  required: Mapping[str, Any] = {}
  traits: Mapping[str, Any] = {}
  pad_token: int | None = None


_PLAIN = {'position_embedding_type': 'absolute', 'is_decoder': False}
_ROBERTA = Architecture(
  'RobertaModel', bert.Variant, _BERT, _PLAIN, pad_token=1
)
ARCHITECTURES = {
  'bert': Architecture('BertModel', bert.Variant, _BERT, _PLAIN),
  'roberta': _ROBERTA,
  'xlm-roberta': _ROBERTA._replace(class_name='XLMRobertaModel'),
  'camembert': _ROBERTA._replace(class_name='CamembertModel'),
  'distilbert': Architecture(
    'DistilBertModel', bert.Variant, _DISTILBERT, traits={'num_types': 0}
  ),
  'mpnet': Architecture(
    'MPNetModel',
    bert.Variant,
    _MPNET,
    traits={'num_types': 0, 'relative_buckets': 32},
    pad_token=1,
  ),
  'modernbert': Architecture(
    'ModernBertModel',
    modernbert.Variant,
    _MODERNBERT,
    {'hidden_activation': 'gelu'},
  ),
}


def read(path: pathlib.Path) -> tuple[str, Variant]:
  """The `model_type` and the geometry that a config.json states.

  Raises ValueError for an architecture, or a trait, that no encoder here has.
  """
  content = files.read_json(path)
  kind = content.get('model_type')
  if kind not in ARCHITECTURES:
    classes = content.get('architectures') or ['no class']
    raise ValueError(
      f"{path} says that it is transformers' {kind} ({classes[0]}), which is "
      f'no text encoder here: {", ".join(ARCHITECTURES)} are'
    )
  architecture = ARCHITECTURES[kind]
  for key, right in architecture.required.items():
    if (value := content.get(key, right)) not in (right, None):
      raise ValueError(f'{path} says {key} {value!r}: must be {right!r}')
  traits = dict(architecture.traits) | {
    name: content[key]
    for key, name in architecture.fields.items()
    if content.get(key) is not None
  }
  if kind == 'modernbert':
    traits |= _layers(path, content)
  variant = files.checked(traits, str(path), architecture.make)
  if architecture.pad_token is None:
    return kind, variant
  # MPNet's is fixed, whatever its config says.
  pad = architecture.pad_token
  if kind != 'mpnet' and content.get('pad_token_id') is not None:
    pad = content['pad_token_id']
  traits |= {
    'position_offset': pad + 1,
    'max_tokens': variant.max_tokens - pad - 1,
  }
  return kind, files.checked(traits, str(path), architecture.make)


def kind_of(variant: Variant) -> str:
  """The `model_type` of a config.json for this variant."""
  if isinstance(variant, modernbert.Variant):
    return 'modernbert'
  if variant.relative_buckets:
    return 'mpnet'
  if not variant.num_types:
    return 'distilbert'
  return 'roberta' if variant.position_offset else 'bert'


def config_json(
  kind: str, variant: Variant, *, pad_token: int
) -> dict[str, Any]:
  """The content of a config.json from which `read` gives this variant.

  `pad_token` is the id of the tokenizer's padding.
  """
  architecture = ARCHITECTURES[kind]
  content = {'architectures': [architecture.class_name], 'model_type': kind}
  content |= architecture.required
  for key, name in architecture.fields.items():
    content[key] = getattr(variant, name)
  content |= {'pad_token_id': pad_token, 'torch_dtype': 'float32'}
  if isinstance(variant, bert.Variant):
    if offset := variant.position_offset:
      content['pad_token_id'] = offset - 1
      content['max_position_embeddings'] += offset
    return content
  kinds = {True: 'full_attention', False: 'sliding_attention'}
  thetas = {True: variant.global_theta, False: variant.local_theta}
  content |= {
    'layer_types': [kinds[x] for x in variant.is_global],
    'local_attention': 2 * variant.window,
    'rope_parameters': {
      kinds[x]: {'rope_type': 'default', 'rope_theta': thetas[x]}
      for x in (True, False)
    },
    # By the names of transformers before 5, which reads no `rope_parameters`.
    'global_rope_theta': variant.global_theta,
    'local_rope_theta': variant.local_theta,
  }
  return content


def _layers(path: pathlib.Path, content: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a ModernBERT's local and global blocks."""
  depth = content.get('num_hidden_layers', modernbert.Variant.depth)
  every = content.get('global_attn_every_n_layers') or 3
  kinds = content.get('layer_types') or [
    'sliding_attention' if i % every else 'full_attention' for i in range(depth)
  ]
  rope = content.get('rope_parameters') or {}
  thetas = {}
  for name, kind, old, default in (
    ('global_theta', 'full_attention', 'global_rope_theta', 160_000.0),
    ('local_theta', 'sliding_attention', 'local_rope_theta', 10_000.0),
  ):
    stated = rope.get(kind) or {}
    if (form := stated.get('rope_type', 'default')) != 'default':
      raise ValueError(f"{path} says rope_type {form!r}: must be 'default'")
    thetas[name] = float(stated.get('rope_theta', content.get(old) or default))
  if content.get('rope_scaling'):
    raise ValueError(f'{path} has rope_scaling, which is not known here')
  return thetas | {
    'is_global': tuple(kind == 'full_attention' for kind in kinds),
    'window': content.get('local_attention', 128) // 2,
  }
