"""Writes a folder that sentence-transformers loads, and serves from."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import shutil
from typing import Any

import jax
from jax import export as jax_export
from jax import numpy as jnp
import numpy as np
import tokenizers

from mrl_jax import nesting
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop import export_folder
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.text import architectures
from mrl_jax.interop.text import folder as folder_lib
from mrl_jax.interop.text import modules
from mrl_jax.interop.text import names
from mrl_jax.models import static_text
from mrl_jax.models import text
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files

# Beside tokenizer.json; special tokens are said there.
_TOKENIZER_FILES = ('tokenizer_config.json', 'special_tokens_map.json')


def write(
  path: str | os.PathLike,
  encoder: text.TextEncoder,
  tokenizer: str | os.PathLike | Tokens,
  dims: Sequence[int],
  *,
  prompts: Mapping[str, str] | None = None,
  default_prompt: str = '',
  lower_case: bool = False,
) -> None:
  """Writes the folder of a text encoder, whole or not at all.

  `SentenceTransformer(path, truncate_dim=64)` gives the embeddings of `encode`
  there, and `mrl_jax.load(path)` here. Besides their files it has
  `encoder.stablehlo`, the encoder by `jax.export` from token ids, int32 [N, T],
  and a mask that is False on padding, bool [N, T], to float32 embeddings
  [N, D]; and `checksums.json`.

  Args:
    path: the folder, which is replaced.
    encoder: the encoder.
    tokenizer: its tokenizer.json; settings beside the file are taken along.
      `Tokens` also say at how many tokens texts are cut off.
    dims: the widths that the embedding is trained for, which config.json names
      as vLLM and Text Embeddings Inference read them.
    prompts: texts to put before those that are embedded, by name.
    default_prompt: name of the prompt that is used where none is given.
    lower_case: whether texts are lowercased before the tokenizer.

  Raises:
    ValueError: a tokenizer that does not fit the encoder, a dim beyond the
      width, or a default prompt that is none of the prompts.
  """
  dims = nesting.validate(dims, encoder.embedding_dim)
  prompts = dict(prompts or {})
  if default_prompt and default_prompt not in prompts:
    raise ValueError(
      f'default_prompt {default_prompt!r}: must be one of {tuple(prompts)}'
    )
  tokens = tokenizer
  if not isinstance(tokens, Tokens):
    tokens = Tokens(tokenizer, encoder.max_tokens)
  if tokens.vocabulary_size > encoder.vocabulary_size:
    raise ValueError(
      f'{tokens.path} has token ids up to {tokens.vocabulary_size - 1}: the '
      f'encoder has embeddings of {encoder.vocabulary_size} tokens'
    )
  config, tensors = _backbone(encoder, tokens)
  config |= {'is_matryoshka': True, 'matryoshka_dimensions': list(dims)}
  with files.replacing_folder(files.local(path, 'folder')) as folder:
    files.write_json(folder / 'config.json', config)
    _write_tensors(folder, tensors)
    _write_tokenizer(folder, tokens)
    first = {'max_seq_length': tokens.max_tokens, 'do_lower_case': lower_case}
    files.write_json(folder / 'sentence_bert_config.json', first)
    _write_modules(folder, encoder)
    files.write_json(
      folder / modules.MODEL,
      {
        # The oldest that has prompts.
        '__version__': {'sentence_transformers': '3.0.0'},
        'prompts': prompts,
        'default_prompt_name': default_prompt or None,
        'similarity_fn_name': 'cosine',
      },
    )
    (folder / export_folder.ARTIFACT).write_bytes(_artifact(encoder))
    written = [part for part in folder.rglob('*') if part.is_file()]
    checksums.write(folder / export_folder.CHECKSUMS, {}, written)


def _backbone(
  encoder: text.TextEncoder, tokens: Tokens
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The content of config.json, and the backbone's arrays by their names."""
  variant, backbone = encoder.settings.backbone, encoder.backbone
  if not isinstance(variant, static_text.Variant):
    kind = architectures.kind_of(variant)
    config = architectures.config_json(kind, variant, pad_token=tokens.pad_id)
    return config, arrays.taken(backbone, names.slots(backbone, kind))
  if encoder.settings.pooling != 'mean':
    raise ValueError(
      f'pooling {encoder.settings.pooling!r}: must be mean, which '
      "sentence-transformers' StaticEmbedding is"
    )
  vector_VD = np.asarray(backbone.embeddings[...])
  if variant.weighted:  # A weight of each token is part of its vector there.
    vector_VD = vector_VD * np.asarray(backbone.weights[...])[:, None]
  return {'hidden_size': variant.width}, {'embedding.weight': vector_VD}


def _artifact(encoder: text.TextEncoder) -> bytes:
  """The encoder for all platforms, for any number of texts and tokens."""
  shape = jax_export.symbolic_shape(
    'n, t', constraints=[f't <= {encoder.max_tokens}']
  )
  return export_folder.serialized(
    encoder,
    jax.ShapeDtypeStruct(shape, jnp.int32),
    jax.ShapeDtypeStruct(shape, jnp.bool_),
  )


def _write_modules(folder: pathlib.Path, encoder: text.TextEncoder) -> None:
  settings = encoder.settings
  is_static = isinstance(settings.backbone, static_text.Variant)
  kinds = ['StaticEmbedding'] if is_static else ['Transformer', 'Pooling']
  first = len(kinds)
  kinds += ['Dense'] * len(settings.projections)
  kinds += ['Normalize'] * settings.normalise
  listed = []
  for i, kind in enumerate(kinds):
    name = f'{i}_{kind}' if i else ''
    kind = f'sentence_transformers.models.{kind}'
    listed.append({'idx': i, 'name': str(i), 'path': name, 'type': kind})
    (folder / name).mkdir(exist_ok=True)
  files.write_json(folder / modules.NAME, listed)
  if not is_static:
    files.write_json(
      folder / '1_Pooling' / 'config.json',
      modules.pooling_json(settings.pooling, settings.backbone.width),
    )
  width = settings.backbone.width
  for i, (projection, layer) in enumerate(
    zip(settings.projections, encoder.projections, strict=True), first
  ):
    dense = folder / f'{i}_Dense'
    files.write_json(
      dense / 'config.json', modules.dense_json(projection, width)
    )
    _write_tensors(dense, arrays.taken(layer, folder_lib.linear_slots(layer)))
    width = projection.width


def _write_tokenizer(folder: pathlib.Path, tokens: Tokens) -> None:
  # Some libraries obey the truncation and the padding in the file.
  tokenizer = tokenizers.Tokenizer.from_file(str(tokens.path))
  tokenizer.no_padding()
  tokenizer.enable_truncation(tokens.max_tokens)
  tokenizer.save(str(folder / folder_lib.TOKENIZER))
  for name in _TOKENIZER_FILES:
    if (beside := tokens.path.with_name(name)).is_file():
      shutil.copyfile(beside, folder / name)
  path = folder / _TOKENIZER_FILES[0]
  content = files.read_json(path, missing={})
  if not content:
    content = {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'pad_token': tokenizer.id_to_token(tokens.pad_id) or '[PAD]',
      'model_input_names': ['input_ids', 'attention_mask'],
    }
  files.write_json(path, content | {'model_max_length': tokens.max_tokens})


def _write_tensors(
  folder: pathlib.Path, tensors: Mapping[str, np.ndarray]
) -> None:
  from safetensors import numpy as safetensors

  # transformers looks for the metadata.
  data = safetensors.save(dict(tensors), {'format': 'pt'})
  (folder / folder_lib.WEIGHTS).write_bytes(data)
