"""A linear map that makes prefixes compare as the whole embedding does."""

import json

from flax import nnx
import numpy as np
import pytest

import mrl_jax
from mrl_jax.interop import text as interop_text
from mrl_jax.interop.text import nest
from mrl_jax.models import bert
from mrl_jax.models import text
from tests.interop import text_folders

VARIANT = bert.Variant(
  vocabulary_size=text_folders.VOCABULARY,
  width=32,
  depth=1,
  num_heads=4,
  hidden=48,
  max_tokens=40,
)
TEXTS = ['a man is playing the guitar', 'two dogs', 'a man', 'run ! é', 'the']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('nest')
  text_folders.write_tokenizer(path)
  settings = text.Settings(VARIANT, projections=(text.Projection(24),))
  encoder = text.create(settings, rngs=nnx.Rngs(0))
  prompts = {'query': 'a man '}
  out = path / 'out'
  interop_text.write(
    out, encoder, path / 'tokenizer.json', (24,), prompts=prompts
  )
  return out


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
  path = tmp_path_factory.mktemp('pairs') / 'pairs.jsonl'
  rows = [{'a': x, 'b': y} for x in TEXTS for y in TEXTS if x != y]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def similarities(x_ND, dim):
  x_ND = x_ND[:, :dim] / np.linalg.norm(x_ND[:, :dim], axis=1, keepdims=True)
  return (x_ND @ x_ND.T)[np.triu_indices(len(x_ND), 1)]


def test_prefixes_keep_the_similarities_of_the_whole():
  # What tells texts apart lies in two directions, away from the axes.
  rng = np.random.default_rng(0)
  rotation_DD = np.linalg.qr(rng.normal(size=(16, 16)))[0]
  scale_D = np.where(np.arange(16) < 2, 1.0, 0.1)
  x_ND = (rng.normal(size=(80, 16)) * scale_D @ rotation_DD).astype('float32')
  pair_PCD = x_ND[:64].reshape(32, 2, 16)
  map_DD = nest.fit(pair_PCD, (2, 8, 16), temperature=0.2, steps=300, seed=1)
  again_DD = nest.fit(pair_PCD, (2, 8, 16), temperature=0.2, steps=300, seed=1)
  np.testing.assert_array_equal(map_DD, again_DD)
  whole = similarities(x_ND, 16)
  agreement = lambda x, dim: np.corrcoef(similarities(x, dim), whole)[0, 1]
  for dim in (2, 8):
    left = 1 - agreement(x_ND @ map_DD, dim)
    assert left < 0.5 * (1 - agreement(x_ND, dim))
  assert agreement(x_ND @ map_DD, 16) > 0.995


def test_the_folder_that_the_command_writes(folder, pairs, tmp_path):
  out = tmp_path / 'nested'
  entry = f'{pairs}?columns=a,b'
  nest.main([str(folder), entry, f'--out={out}', '--dims=4,8,24', '--most=9'])
  before, after = mrl_jax.load(folder), mrl_jax.load(out)
  assert after.nesting_dims == (4, 8, 24)
  assert after.prompts == before.prompts
  pair_PCD = nest.embed(before, [entry], 9, seed=0)
  assert pair_PCD.shape == (9, 2, 24)
  expected_ND = before.encode(TEXTS) @ nest.fit(pair_PCD, (4, 8, 24))
  expected_ND /= np.linalg.norm(expected_ND, axis=1, keepdims=True)
  np.testing.assert_allclose(after.encode(TEXTS), expected_ND, atol=1e-5)


@pytest.mark.parametrize(
  ('query', 'flags', 'message'),
  [
    ('?columns=a', (), 'must have two columns'),
    ('?columns=a,c', (), 'c'),
    ('?column=a,b', (), "'column' must be columns or range"),
    ('?columns=a,b', ('--dims=8,48',), '48'),
  ],
)
def test_refused(folder, pairs, tmp_path, query, flags, message):
  out = tmp_path / 'out'
  with pytest.raises(SystemExit, match=message):
    nest.main([str(folder), f'{pairs}{query}', f'--out={out}', *flags])
  assert not out.exists()


def test_vectors_that_cannot_be(tmp_path):
  with pytest.raises(ValueError, match='must have two texts'):
    nest.fit(np.ones((1, 1, 8), 'float32'), (4, 8))
  with pytest.raises(ValueError, match='pair 1 is not finite'):
    nest.fit(np.array([[[1.0, 2]], [[np.nan, 1]]], 'float32'), (1, 2))
  with pytest.raises(ValueError, match='must be a folder of a text encoder'):
    nest.write(str(tmp_path), str(tmp_path / 'out'), [])
