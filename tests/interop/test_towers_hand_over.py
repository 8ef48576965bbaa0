"""Towers written in the layout of transformers; tokenizers of CLIP, SigLIP."""

import dataclasses
import json

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors
import tokenizers
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors

from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop import towers as interop_towers
from mrl_jax.interop.towers import hand_over
from mrl_jax.models import clip_text
from mrl_jax.models import static_text
from mrl_jax.models import text
from mrl_jax.models import towers
from mrl_jax.models import vit
from mrl_jax.training.state import arrays_of

IMAGE = vit.Variant(16, depth=1, num_heads=2, patch=4, hidden=24)
TEXT = clip_text.Variant(
  vocabulary_size=40, width=12, depth=1, num_heads=2, hidden=16, max_tokens=9
)


def write_clip_tokenizer(path):
  """CLIP's byte pairs with three merges: `cat`, `ca` and `t` at a word's end.

  Ids: 0 to 8 the letters, 9 to 11 the merges, 12 and 13 the special tokens.
  """
  letters = [*'acdt', *(f'{x}</w>' for x in 'acdt'), '!</w>']
  merged = ['ca', 'cat</w>', 'do']
  names = [*letters, *merged, '<|startoftext|>', '<|endoftext|>']
  vocabulary = {name: i for i, name in enumerate(names)}
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocabulary,
      [('c', 'a'), ('ca', 't</w>')],
      end_of_word_suffix='</w>',
      continuing_subword_prefix='',
      unk_token='<|endoftext|>',
    )
  )
  tokenizer.normalizer = normalizers.Sequence(
    [
      normalizers.NFC(),
      normalizers.Replace(tokenizers.Regex(r'\s+'), ' '),
      normalizers.Lowercase(),
    ]
  )
  words = tokenizers.Regex(r"'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(words, behavior='removed', invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  tokenizer.post_processor = processors.RobertaProcessing(
    ('<|endoftext|>', 13), ('<|startoftext|>', 12), False, False
  )
  tokenizer.save(str(path))
  return vocabulary


def test_the_tokenizer_of_clip(tmp_path):
  path = tmp_path / 'tokenizer.json'
  write_clip_tokenizer(path)
  found = Tokens(path, 6).ids(['A  CAT!', 'cad', '', 'cat cat cat cat cat'])
  assert found == [
    [12, 4, 10, 8, 13],  # a</w> cat</w> !</w>
    [12, 9, 6, 13],  # ca d</w>
    [12, 13],
    [12, 10, 10, 10, 10, 13],  # Cut, and the end is still there.
  ]


def test_the_tokenizer_of_siglip(tmp_path):
  """SentencePiece's unigrams: the likeliest pieces, the end, no beginning."""
  pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('▁', -4.0)]
  pieces += [('▁a', -1.0), ('▁ca', -2.0), ('t', -2.0), ('▁cat', -3.0)]
  pieces += [('s', -1.5), ('c', -3.0), ('a', -3.0)]
  tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
  punctuation = tokenizers.Regex(r'[!-/:-@\[-`{-~]')
  tokenizer.normalizer = normalizers.Sequence(
    [
      normalizers.Lowercase(),
      normalizers.Replace(punctuation, ''),
      normalizers.Replace(tokenizers.Regex(r'\s+'), ' '),
      normalizers.Strip(),
    ]
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.post_processor = processors.TemplateProcessing(
    single='$A </s>', special_tokens=[('</s>', 1)]
  )
  path = tmp_path / 'tokenizer.json'
  tokenizer.save(str(path))
  tokens = Tokens(path, 4)
  # ▁cat (-3) is likelier than ▁ca t (-4).
  assert tokens.ids(['A  cat.', 'Cats', '', 'a a a a a']) == [
    [4, 7, 1],
    [7, 8, 1],
    [1],
    [4, 4, 4, 1],
  ]
  assert (tokens.num_truncated, tokens.vocabulary_size) == (1, len(pieces))


def make(kind, seed=0):
  """Towers like CLIP's or SigLIP's, with an own temperature at each width."""
  rngs = nnx.Rngs(seed)
  is_siglip = kind == 'sigmoid'
  image = dataclasses.replace(
    IMAGE,
    pooling='attention' if is_siglip else 'token',
    activation='gelu_new' if is_siglip else 'quick_gelu',
    epsilon=1e-6 if is_siglip else 1e-5,
    stem_norm=not is_siglip,
  )
  backbone = TEXT
  if is_siglip:
    backbone = dataclasses.replace(
      TEXT, causal=False, read_padding=1, activation='gelu_new', epsilon=1e-6
    )
  settings = text.Settings(
    backbone, 'final' if is_siglip else 'last', normalise=False
  )
  projection = text.Projection(16, use_bias=is_siglip)
  model = towers.Towers(
    vit.ViT(image, image_size=8, rngs=rngs),
    text.create(settings, rngs=rngs),
    (4, 16),
    image_projection=None if is_siglip else projection,
    text_projection=projection,
    kind=kind,
    rngs=rngs,
  )
  model.log_scale[...] = np.array([1.0, 2.0], np.float32)
  return model


def write(model, path):
  """A folder of transformers with the towers and a tokenizer."""
  write_clip_tokenizer(path / 'tokenizer.json')
  tokens = Tokens(path / 'tokenizer.json', 9)
  config = hand_over.config_json(model, tokens)
  (path / 'config.json').write_text(json.dumps(config))
  safetensors.save_file(
    hand_over.tensors(model), path / 'model.safetensors', {'format': 'pt'}
  )


@pytest.mark.parametrize('kind', ['contrastive', 'sigmoid'])
def test_what_is_written_is_read(kind, tmp_path):
  model = make(kind)
  write(model, tmp_path)
  folder = interop_towers.open_folder(tmp_path)
  loaded = folder.load((4, 16))
  there, here = (arrays_of(x)['params'] for x in (model, loaded))
  np.testing.assert_array_equal(here.pop('log_scale'), [2.0, 2.0])
  there.pop('log_scale')
  jax.tree.map(np.testing.assert_array_equal, there, here)


def test_other_towers_keep_our_names():
  rngs = nnx.Rngs(0)
  settings = text.Settings(static_text.Variant(20, 16), normalise=False)
  model = towers.Towers(
    vit.ViT(IMAGE, image_size=8, rngs=rngs),
    text.create(settings, rngs=rngs),
    (4, 16),
    rngs=rngs,
  )
  assert hand_over.style_of(model) == ''
  assert hand_over.config_json(model, None) == {}
  assert 'text.backbone.embeddings' in hand_over.tensors(model)
