"""CLIP and SigLIP against transformers, by stage, and open_clip's keys."""

import json
import re

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop import towers as interop_towers
from mrl_jax.interop.towers import hand_over
from mrl_jax.interop.towers import names
from tests.interop import test_towers_hand_over

torch = pytest.importorskip('torch', reason='torch is not installed')
transformers = pytest.importorskip(
  'transformers', reason='transformers is not installed'
)
safetensors_torch = pytest.importorskip('safetensors.torch')

SHARED = {
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
}
VISION = SHARED | {'hidden_size': 16, 'image_size': 12, 'patch_size': 4}
TEXT = SHARED | {'hidden_size': 20, 'vocab_size': 40}
TEXT |= {'max_position_embeddings': 9, 'eos_token_id': 39, 'pad_token_id': 1}
CONFIGS = {
  'clip': transformers.CLIPConfig(
    text_config=TEXT, vision_config=VISION, projection_dim=8
  ),
  'siglip': transformers.SiglipConfig(
    text_config=TEXT | {'projection_size': 16}, vision_config=VISION
  ),
}
IMAGE = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype(np.float32)
LENGTH = np.array([7, 3, 2])
MASK = np.arange(7) < LENGTH[:, None]


def texts(kind: str):
  """Token ids that end in the end's, padded to 7, and to 9 as SigLIP has it."""
  rng = np.random.default_rng(1)
  token_NT = np.where(MASK, rng.integers(2, 39, (3, 7)), 1)
  token_NT[np.arange(3), LENGTH - 1] = 39
  theirs = token_NT
  if kind == 'siglip':
    theirs = np.pad(token_NT, ((0, 0), (0, 2)), constant_values=1)
  return jnp.asarray(token_NT, jnp.int32), torch.from_numpy(theirs).long()


@pytest.fixture(scope='module', params=CONFIGS)
def pair(request, tmp_path_factory):
  """The kind, a folder with random weights, and transformers' model of them."""
  torch.manual_seed(0)
  config = CONFIGS[request.param]
  model = transformers.AutoModel.from_config(config).eval()
  for name, tensor in model.state_dict().items():
    # What is initialised to a constant would hide a mistake.
    if name.endswith('logit_scale'):
      tensor.fill_(1.5)
    elif tensor.ndim == 1 and name.endswith('weight'):
      tensor.uniform_(0.5, 1.5)
    elif tensor.is_floating_point():
      tensor.normal_(std=0.3)
  path = tmp_path_factory.mktemp(request.param)
  model.save_pretrained(path)
  return request.param, path, model


def compare(ours, theirs):
  for x, right in zip(ours, theirs, strict=True):
    right = right.numpy()
    scale = np.abs(right).max()
    np.testing.assert_allclose(x, right, atol=1e-5 * scale)


def test_every_stage(pair):
  kind, path, theirs = pair
  ours = interop_towers.open_folder(path).load((2, 8))
  token_NT, their_token_NT = texts(kind)
  pixels = torch.from_numpy(IMAGE.transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    image = theirs.vision_model(pixels, output_hidden_states=True)
    text = theirs.text_model(their_token_NT, output_hidden_states=True)
    both = theirs(input_ids=their_token_NT, pixel_values=pixels)

  @jax.jit
  def run(image_NHWC, token_NT, mask_NT):
    return (
      # As lists: jit sorts the keys of dicts.
      [*ours.image.features(image_NHWC).values()],
      [*ours.text.backbone.features(token_NT, mask_NT).values()],
      ours.encode_images(image_NHWC),
      ours.encode_texts(token_NT, mask_NT),
    )

  found = run(IMAGE, token_NT, MASK)
  compare(found[0], image.hidden_states)
  T = token_NT.shape[1]
  for x, right in zip(
    found[1],
    (*text.hidden_states, text.last_hidden_state),
    strict=True,
  ):
    if kind == 'siglip':
      compare([x], [right])
    else:  # What padding becomes is not read.
      compare([x[MASK]], [right[:, :T][torch.from_numpy(MASK)]])
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  image_ND, text_ND = map(unit, found[2:])
  compare([image_ND, text_ND], [both.image_embeds, both.text_embeds])
  logit_NN = image_ND @ text_ND.T * np.exp(ours.log_scale[...][-1])
  if kind == 'siglip':
    logit_NN = logit_NN + ours.bias[...][-1]
  compare([logit_NN], [both.logits_per_image])
  # Every width begins with the folder's scale.
  np.testing.assert_allclose(ours.log_scale[...], [1.5, 1.5])


def test_the_loss_is_theirs(pair):
  kind, path, theirs = pair
  ours = interop_towers.open_folder(path).load()
  token_NT, their_token_NT = texts(kind)
  pixels = torch.from_numpy(IMAGE.transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    expected = theirs(
      input_ids=their_token_NT, pixel_values=pixels, return_loss=True
    ).loss
  loss, loss_G = jax.jit(ours.loss)(IMAGE, token_NT, MASK)
  np.testing.assert_allclose(loss, float(expected), rtol=1e-5)
  assert loss_G.shape == (1,)


def renamed(key: str) -> str:
  """The name that open_clip gives an array of transformers' CLIP."""
  for old, new in (
    (r'^vision_model\.embeddings\.class_embedding', 'visual.class_embedding'),
    (r'^vision_model\.embeddings\.patch_embedding', 'visual.conv1'),
    (r'^vision_model\.embeddings\.position_embedding\.weight', 'visual.pos='),
    (r'^text_model\.embeddings\.position_embedding\.weight', 'pos='),
    (r'^text_model\.embeddings\.', ''),
    (r'pos=$', 'positional_embedding'),
    (r'^vision_model\.pre_layrnorm', 'visual.ln_pre'),
    (r'^vision_model\.post_layernorm', 'visual.ln_post'),
    (r'^vision_model\.encoder\.layers', 'visual.transformer.resblocks'),
    (r'^text_model\.encoder\.layers', 'transformer.resblocks'),
    (r'^text_model\.final_layer_norm', 'ln_final'),
    (r'layer_norm(\d)', r'ln_\1'),
    (r'self_attn', 'attn'),
    (r'mlp\.fc1', 'mlp.c_fc'),
    (r'mlp\.fc2', 'mlp.c_proj'),
    (r'^visual_projection\.weight', 'visual.proj'),
    (r'^text_projection\.weight', 'text_projection'),
  ):
    key = re.sub(old, new, key)
  return key


@pytest.fixture
def open_clip(tmp_path):
  """A folder of open_clip, and transformers' model with the same weights."""
  torch.manual_seed(0)
  config = transformers.CLIPConfig(
    text_config=TEXT | {'hidden_act': 'gelu'},
    vision_config=VISION | {'hidden_act': 'gelu'},
    projection_dim=8,
  )
  model = transformers.CLIPModel(config).eval()
  found = {}
  for key, x in model.state_dict().items():
    key = renamed(key)
    if key in ('visual.proj', 'text_projection'):
      x = x.T
    if match := re.fullmatch(r'(.*attn\.)([qkv])_proj\.(\w+)', key):
      joined = f'{match[1]}in_proj_{match[3]}'
      found.setdefault(joined, []).append((match[2], x))
    else:
      found[key] = x.contiguous()
  for key, parts in found.items():
    if isinstance(parts, list):
      order = {'q': 0, 'k': 1, 'v': 2}
      parts = sorted(parts, key=lambda part: order[part[0]])
      found[key] = torch.cat([x for _, x in parts])
  safetensors_torch.save_file(found, tmp_path / 'open_clip_model.safetensors')
  model_cfg = {
    'embed_dim': 8,
    'vision_cfg': {
      'image_size': 12,
      'layers': 2,
      'width': 16,
      'patch_size': 4,
      'head_width': 8,
      'mlp_ratio': 1.5,
    },
    'text_cfg': {
      'context_length': 9,
      'vocab_size': 40,
      'width': 20,
      'heads': 2,
      'layers': 2,
      'mlp_ratio': 1.2,
    },
  }
  path = tmp_path / 'open_clip_config.json'
  path.write_text(json.dumps({'model_cfg': model_cfg}))
  return tmp_path, model


def test_open_clip(open_clip):
  path, theirs = open_clip
  ours = interop_towers.open_folder(path).load()
  token_NT, their_token_NT = texts('clip')
  pixels = torch.from_numpy(IMAGE.transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    expected = theirs(input_ids=their_token_NT, pixel_values=pixels)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  image_ND, text_ND = jax.jit(
    lambda *args: (ours.encode_images(args[0]), ours.encode_texts(*args[1:]))
  )(IMAGE, token_NT, MASK)
  compare(
    [unit(image_ND), unit(text_ND)],
    [expected.image_embeds, expected.text_embeds],
  )


def test_keys_of_a_text_tower_of_its_own():
  found, beside = names.keys(
    [
      'text.transformer.resblocks.0.ln_1.weight',
      'text.attn_mask',
      'visual.proj',
    ],
    'open_clip',
  )
  assert [*found] == ['transformer.resblocks.0.ln_1.weight', 'visual.proj']
  assert beside == ['text.attn_mask']


@pytest.mark.parametrize(
  ('config', 'match'),
  [
    ({'model_type': 'blip'}, "transformers' blip: must be one of clip, siglip"),
    (
      {'model_type': 'clip', 'vision_config': {'num_attention_heads': 5}},
      'num_heads 5: must divide the width 768',
    ),
    (
      {'model_type': 'siglip', 'vision_config': {'vision_use_head': False}},
      'vision_use_head false',
    ),
    (
      {'model_type': 'clip', 'text_config': {'hidden_act': 'silu'}},
      "'silu' - at",
    ),
    ({'model_type': 'clip'}, 'has no weights'),
  ],
)
def test_refuses(config, match, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=match):
    interop_towers.open_folder(tmp_path)


def test_an_array_that_is_missing_or_left_over(pair, tmp_path):
  _, path, _ = pair
  found = interop_towers.open_folder(path)
  tensors = dict(found.tensors)
  tensors['vision_model.head.extra'] = tensors.pop('logit_scale')
  with pytest.raises(ValueError) as e:
    found._replace(tensors=tensors).load()
  assert 'Left over in the file: vision_model.head.extra.' in str(e.value)
  assert 'log_scale (logit_scale)' in str(e.value)


def test_what_is_written_is_theirs(pair, tmp_path):
  _, path, theirs = pair
  towers = interop_towers.open_folder(path).load((2, 8))
  test_towers_hand_over.write_clip_tokenizer(tmp_path / 'tokenizer.json')
  tokens = Tokens(tmp_path / 'tokenizer.json', 9)
  expected = theirs.state_dict()
  found = hand_over.tensors(towers)
  assert {*found} == {x for x in expected if 'position_ids' not in x}
  for name, x in found.items():
    np.testing.assert_array_equal(x, expected[name].numpy(), name)
  written = hand_over.config_json(towers, tokens)
  config = type(theirs.config).from_dict(written)
  assert written['architectures'] == [type(theirs).__name__]
  for part in ('text_config', 'vision_config'):
    ours, right = (getattr(x, part).to_dict() for x in (config, theirs.config))
    # Of the tokenizer, not of the towers.
    differing = {x for x in right if ours[x] != right[x]} - {
      'eos_token_id', 'bos_token_id', 'pad_token_id', 'torch_dtype', 'dtype',
      'projection_dim',
    }  # fmt: skip
    assert not differing


def test_the_tokenizer_of_clip_is_theirs(tmp_path):
  path = tmp_path / 'tokenizer.json'
  theirs = transformers.CLIPTokenizer(
    vocab=test_towers_hand_over.write_clip_tokenizer(path),
    merges=[('c', 'a'), ('ca', 't</w>')],
  )
  texts = ['A  CAT!', 'cad', "a cat's", 'DAD\n cat']
  expected = theirs(texts, truncation=True, max_length=6)['input_ids']
  assert Tokens(path, 6).ids(texts) == expected
