"""Folders of text encoders: written, opened, refused; and what encode takes."""

import dataclasses
import json

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

import mrl_jax
from mrl_jax.interop import export_folder
from mrl_jax.interop import text as interop_text
from mrl_jax.interop.text import batches
from mrl_jax.interop.text import folder
from mrl_jax.models import bert
from mrl_jax.models import modernbert
from mrl_jax.models import static_text
from mrl_jax.models import text
from tests.interop import text_folders

SIZES = {
  'vocabulary_size': text_folders.VOCABULARY,
  'width': 32,
  'depth': 2,
  'num_heads': 4,
  'hidden': 48,
  'max_tokens': 40,
}
BACKBONES = {
  'bert': bert.Variant(**SIZES),
  'roberta': bert.Variant(**SIZES, position_offset=2, num_types=1),
  'distilbert': bert.Variant(**SIZES, num_types=0),
  'mpnet': bert.Variant(
    **SIZES, position_offset=2, num_types=0, relative_buckets=32
  ),
  'modernbert': modernbert.Variant(**SIZES, is_global=(False, True), window=4),
}
TEXTS = ['a man is playing the guitar', 'two dogs', '', 'run ! é', 'a ' * 60]


def settings(kind='bert', **changes):
  return text.Settings(BACKBONES[kind], **changes)


def written(path, encoder, special=True, **options):
  """The folder of the encoder in `path`, with the small tokenizer."""
  text_folders.write_tokenizer(path, special=special)
  out = path / 'out'
  interop_text.write(out, encoder, path / 'tokenizer.json', (8, 32), **options)
  return out


@pytest.fixture(scope='module')
def bert_folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('bert')
  encoder = text.create(settings(), rngs=nnx.Rngs(0))
  prompts = {'query': 'a man ', 'document': ''}
  return written(path, encoder, prompts=prompts, default_prompt='document')


def changed(folder_path, tmp_path, name, **changes):
  """A copy of the folder in which a JSON file has other fields."""
  import shutil

  copy = tmp_path / 'copy'
  shutil.copytree(folder_path, copy, dirs_exist_ok=True)
  (copy / 'checksums.json').unlink(missing_ok=True)
  content = json.loads((copy / name).read_text())
  content |= changes
  (copy / name).write_text(json.dumps(content))
  return copy


@pytest.mark.parametrize('kind', BACKBONES)
def test_a_written_folder_gives_the_same_encoder(kind, tmp_path):
  projections = (text.Projection(24, activation='tanh'), text.Projection(20))
  chosen = settings(kind, pooling='last', projections=projections)
  encoder = text.create(chosen, rngs=nnx.Rngs(0))
  text_folders.write_tokenizer(tmp_path)
  out = tmp_path / 'out'
  interop_text.write(out, encoder, tmp_path / 'tokenizer.json', (8, 20))
  opened = folder.open_folder(out)
  assert opened.kind == kind
  assert opened.settings == chosen
  assert opened.nesting_dims() == (8, 20)
  assert not opened.left_out
  for x, y in zip(
    jax.tree.leaves(nnx.state(encoder)),
    jax.tree.leaves(nnx.state(opened.load())),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('kind', BACKBONES)
def test_artifact_takes_token_ids(kind, tmp_path):
  encoder = text.create(settings(kind), rngs=nnx.Rngs(0))
  exported = export_folder.read_artifact(written(tmp_path, encoder))
  rng = np.random.default_rng(0)
  token_NT = rng.integers(4, text_folders.VOCABULARY, (3, 9), np.int32)
  mask_NT = np.arange(9) < np.array([9, 4, 1])[:, None]
  np.testing.assert_allclose(
    exported.call(token_NT, mask_NT),
    jax.jit(encoder)(token_NT, mask_NT),
    atol=1e-6,
  )


def test_a_static_encoder(tmp_path):
  """Its tokens' weights become part of their vectors."""
  variant = static_text.Variant(text_folders.VOCABULARY, 32)
  encoder = text.create(text.Settings(variant), rngs=nnx.Rngs(0))
  rng = np.random.default_rng(0)
  encoder.backbone.weights[...] = rng.uniform(0.5, 2, text_folders.VOCABULARY)
  text_folders.write_tokenizer(tmp_path, special=False)
  path, out = tmp_path / 'tokenizer.json', tmp_path / 'out'
  interop_text.write(out, encoder, path, (8, 32))
  opened = mrl_jax.load(out)
  token_NT, mask_NT = opened.tokens(TEXTS)
  found_ND = opened.encode(TEXTS)
  expected_ND = jax.jit(encoder)(token_NT, mask_NT)
  np.testing.assert_allclose(found_ND, expected_ND, atol=1e-6)
  assert not found_ND[TEXTS.index('')].any()  # It has no tokens.
  text_folders.write_tokenizer(out)
  (out / 'checksums.json').unlink()
  with pytest.raises(ValueError, match='adds special tokens'):
    mrl_jax.load(out)
  last = text.create(text.Settings(variant, 'last'), rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="pooling 'last': must be mean"):
    interop_text.write(out, last, path, (8,))


def test_load_and_encode(bert_folder):
  encoder = mrl_jax.load(bert_folder)
  assert encoder.width == 32
  assert encoder.nesting_dims == (8, 32)
  with pytest.warns(UserWarning, match='1 of 5 texts have more than 40 tokens'):
    whole_ND = encoder.encode(TEXTS)
  assert whole_ND.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(whole_ND, axis=1), 1, rtol=1e-5)
  # Alone, as bytes, and in another order they are the same.
  for i, x in enumerate(TEXTS[:4]):
    for same in (x, x.encode()):
      np.testing.assert_allclose(
        encoder.encode(same), whole_ND[i : i + 1], atol=1e-5
      )
  prefix_ND = encoder.encode(TEXTS[:4], 8)
  norm_N1 = np.linalg.norm(whole_ND[:4, :8], axis=1, keepdims=True)
  np.testing.assert_allclose(prefix_ND, whole_ND[:4, :8] / norm_N1, atol=1e-5)
  assert encoder.encode([]).shape == (0, 32)


def test_prompts(bert_folder):
  encoder = mrl_jax.load(bert_folder)
  expected = encoder.encode('a man is playing')
  for options in ({'prompt_name': 'query'}, {'prompt': 'a man '}):
    found = encoder.encode('is playing', **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)
  with pytest.raises(ValueError, match="prompt_name 'querry': must be one of"):
    encoder.encode('a', prompt_name='querry')
  with pytest.raises(ValueError, match='give one of them'):
    encoder.encode('a', prompt='a', prompt_name='query')


@pytest.mark.parametrize(
  ('texts', 'message'),
  [
    (['a', 'b\ud800'], 'text 1 is no valid Unicode: .* at 1'),
    ([b'a', b'caf\xe9'], 'text 1 is no valid Unicode: .* at 3'),
    (['a', None], 'text 1 None: must be str, or bytes of UTF-8'),
    (['a', ['b']], 'text 1'),
    (3, 'texts 3: must be a text or a list of texts'),
  ],
)
def test_texts_that_are_none(bert_folder, texts, message):
  with pytest.raises(ValueError, match=message):
    mrl_jax.load(bert_folder).encode(texts)


def test_dims_beyond_the_width(bert_folder):
  for dim in (0, 33, 1.5):
    with pytest.raises(ValueError, match=f'dim {dim}'):
      mrl_jax.load(bert_folder).encode('a', dim)


def test_nul_and_a_hundred_thousand_words(bert_folder):
  encoder = mrl_jax.load(bert_folder)
  np.testing.assert_allclose(
    encoder.encode('two\0 dogs'), encoder.encode('two dogs'), atol=1e-5
  )
  with pytest.warns(UserWarning, match='1 of 1 texts'):
    long_ND = encoder.encode('dogs ' * 100_000)
  with pytest.warns(UserWarning):
    np.testing.assert_allclose(long_ND, encoder.encode('dogs ' * 60), atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'changes', 'message'),
  [
    ('config.json', {'model_type': 't5', 'architectures': ['T5Model']},
     r"transformers' t5 \(T5Model\), which is no text encoder here: bert"),
    ('config.json', {'position_embedding_type': 'relative_key'},
     "position_embedding_type 'relative_key': must be 'absolute'"),
    ('config.json', {'num_hidden_layers': 3},
     'Left unfilled here.*blocks.2.fc1.bias'),
    ('config.json', {'num_hidden_layers': 1},
     'Left over in the file: encoder.layer.1.attention'),
    ('config.json', {'hidden_size': 'wide'}, 'Expected `int`, got `str`'),
    ('config.json', {'vocab_size': 70}, 'has 64 rows.* vocab_size 70'),
    ('config.json', {'num_attention_heads': 5}, 'num_heads 5: must divide'),
    ('config.json', {'hidden_act': 'silu'}, "Invalid enum value 'silu'"),
    ('1_Pooling/config.json', {'pooling_mode': 'max'},
     'pooling max: must be one of mean, cls, lasttoken'),
    ('1_Pooling/config.json', {'pooling_mode_cls_token': True},
     'pooling cls, mean: must be one of'),
    ('1_Pooling/config.json', {'include_prompt': False}, 'include_prompt'),
    ('1_Pooling/config.json', {'word_embedding_dimension': 48},
     'states of width 48, the encoder has 32'),
  ],
)  # fmt: skip
def test_folders_that_do_not_fit(bert_folder, tmp_path, name, changes, message):
  path = changed(bert_folder, tmp_path, name, **changes)
  with pytest.raises(ValueError, match=message):
    mrl_jax.load(path)


def test_a_tokenizer_with_more_tokens_than_embeddings(bert_folder, tmp_path):
  path = changed(bert_folder, tmp_path, 'tokenizer.json')
  content = json.loads((path / 'tokenizer.json').read_text())
  content['model']['vocab']['more'] = 64
  (path / 'tokenizer.json').write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r'ids up to 64: .* embeddings of 64'):
    mrl_jax.load(path)
  (path / 'tokenizer.json').unlink()
  with pytest.raises(ValueError, match='there is no such file'):
    mrl_jax.load(path)


@pytest.mark.parametrize(
  ('kinds', 'message'),
  [
    (('Pooling', 'WeightedLayerPooling'), 'must be Transformer, Pooling'),
    (('Pooling', 'Normalize', 'Dense'), 'must be Transformer, Pooling'),
    ((), 'has no Pooling'),
  ],
)
def test_modules_that_are_not_known(bert_folder, tmp_path, kinds, message):
  path = changed(bert_folder, tmp_path, 'config.json')
  text_folders.write_modules(path, *kinds)
  with pytest.raises(ValueError, match=message):
    mrl_jax.load(path)


def test_modules_outside_the_folder(bert_folder, tmp_path):
  path = changed(bert_folder, tmp_path, 'config.json')
  module = {'path': '../..', 'type': 'sentence_transformers.models.Transformer'}
  (path / 'modules.json').write_text(json.dumps([module]))
  with pytest.raises(ValueError, match='must be within it'):
    mrl_jax.load(path)


def test_weights_of_other_libraries(bert_folder, tmp_path):
  """Split over files, with prefixes, old names and arrays beside them."""
  path = changed(bert_folder, tmp_path, 'config.json')
  arrays = safetensors.load_file(path / 'model.safetensors')
  arrays = {
    'bert.'
    + name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
      'LayerNorm.bias', 'LayerNorm.beta'
    ): x
    for name, x in arrays.items()
  }
  arrays['bert.embeddings.position_ids'] = np.arange(40)[None]
  arrays['bert.pooler.dense.bias'] = np.zeros(32, np.float32)
  arrays['cls.predictions.bias'] = np.zeros(64, np.float32)
  (path / 'model.safetensors').unlink()
  parts = {'a.safetensors': {}, 'b.safetensors': {}}
  for i, (name, x) in enumerate(arrays.items()):
    parts['ab'[i % 2] + '.safetensors'][name] = x
  for name, part in parts.items():
    safetensors.save_file(part, path / name)
  where = {key: name for name, part in parts.items() for key in part}
  index = path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': where}))
  opened = folder.open_folder(path)
  assert opened.left_out == (
    'bert.embeddings.position_ids',
    'bert.pooler.dense.bias',
    'cls.predictions.bias',
  )
  np.testing.assert_array_equal(
    mrl_jax.load(path).encode('a'), mrl_jax.load(bert_folder).encode('a')
  )
  index.write_text(json.dumps({'weight_map': where | {'x': 'a.safetensors'}}))
  with pytest.raises(ValueError, match='does not fit the files beside it: x'):
    folder.open_folder(path)
  index.write_text(json.dumps({'weight_map': {'x': '../a.safetensors'}}))
  with pytest.raises(ValueError, match='must be a file beside it'):
    folder.open_folder(path)


def test_write_refuses(tmp_path):
  encoder = text.create(settings(), rngs=nnx.Rngs(0))
  text_folders.write_tokenizer(tmp_path)
  path = tmp_path / 'tokenizer.json'
  with pytest.raises(ValueError, match='33 is beyond the embedding width 32'):
    interop_text.write(tmp_path / 'out', encoder, path, (8, 33))
  with pytest.raises(ValueError, match="default_prompt 'query'"):
    interop_text.write(
      tmp_path / 'out', encoder, path, (8,), default_prompt='query'
    )
  small = dataclasses.replace(BACKBONES['bert'], vocabulary_size=9)
  encoder = text.create(text.Settings(small), rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='embeddings of 9 tokens'):
    interop_text.write(tmp_path / 'out', encoder, path, (8,))
  assert not (tmp_path / 'out').exists()


def test_packing_holds_every_token_once():
  rng = np.random.default_rng(0)
  lengths = [*rng.integers(2, 30, 500), 300, 70, 0]
  ids = [rng.integers(1, 99, n).tolist() for n in lengths]
  found, shapes, total = {}, set(), 0
  for batch in batches.packed(ids, 512):
    assert len(batch.texts) <= batch.num_texts
    shapes.add(batch.token_RT.shape)
    total += batch.token_RT.size
    for number, i in enumerate(batch.texts, 1):
      rows, columns = np.nonzero(batch.text_RT == number)
      assert len({*rows}) == 1
      assert (np.diff(columns) == 1).all()
      found[int(i)] = batch.token_RT[rows, columns].tolist()
  assert found == dict(enumerate(ids[:-1]))
  assert len(shapes) <= 4
  assert 1 - sum(lengths) / total < 0.06
