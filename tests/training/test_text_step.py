"""The step of text encoders: cached gradients, masks, objectives."""

import functools

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from mrl_jax import losses
from mrl_jax import models
from mrl_jax.losses import negatives
from mrl_jax.models import packed
from mrl_jax.models import static_text
from mrl_jax.models import text as text_models
from mrl_jax.training import cached_gradient
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import text_step

DIMS = (2, 4, 8)
VOCABULARY = 20


class Dropped(nnx.Module):
  """A text encoder with dropout in front of a layer."""

  num_features = embedding_dim = 8
  vocabulary_size, max_tokens = VOCABULARY, 6

  def __init__(self, rngs):
    self.tokens = nnx.Embed(VOCABULARY, 8, rngs=rngs)
    self.layer = nnx.Linear(8, 8, rngs=rngs)

  def __call__(self, token_NT, mask_NT, *, key=None):
    x = self.tokens(token_NT)
    if key is not None:
      x *= 2 * jax.random.bernoulli(key, 0.5, x.shape)
    x = jnp.tanh(self.layer(x))
    return text_models.pool(x, mask_NT, 'mean')

  def packed(self, token_RT, owner_RT, num_texts, *, key=None):
    x = self.tokens(token_RT)
    if key is not None:
      x *= 2 * jax.random.bernoulli(key, 0.5, x.shape)
    return packed.pool(jnp.tanh(self.layer(x)), owner_RT, num_texts, 'mean')


def model(head='none', encoder=Dropped):
  rngs = nnx.Rngs(0)
  return models.Classifier(encoder(rngs), DIMS, 3, head=head, rngs=rngs)


def batch(count=8, keys=2, parts=1, devices=1):
  """Examples whose texts have one row each, in the order of TextBatches."""
  rng = np.random.default_rng(0)
  texts = rng.integers(0, VOCABULARY, (count, keys + 1, 6), np.int32)
  lengths = rng.integers(1, 7, (count, keys + 1))
  rows = {}
  for n, c in np.ndindex(count, keys + 1):
    device, part = n // (count // devices), n % parts
    owner = c * (count // parts) + n // parts + 1
    row = np.where(np.arange(6) < lengths[n, c], owner, 0)
    rows.setdefault((device, part), []).append((texts[n, c], row))
  token, owner = [], []
  for device in range(devices):
    groups = [rows[device, part] for part in range(parts)]
    for group in zip(*groups, strict=True):
      token += [x for x, _ in group]
      owner += [x for _, x in group]
  return {
    'token': np.array(token, np.int32),
    'owner': np.array(owner, np.int32),
    'text': np.arange(count * (keys + 1), dtype=np.int32).reshape(count, -1),
    'label': rng.integers(0, 3, count, np.int32),
  }


def scored():
  return batch() | {'score': np.linspace(0, 1, 8, dtype=np.float32)}


def step_of(kind='contrastive', head='none', made=None, **options):
  graphdef, state = state_lib.create(made or model(head), optax.sgd(0.1))
  objective = text_step.Objective(kind, DIMS, temperature=0.2)
  step = text_step.make_text_step(
    graphdef, optax.sgd(0.1), objective, seed=0, **options
  )
  return step, state


def test_the_mask_of_negatives():
  # Query 1 equals query 0, and key 2 equals query 0; query 3's key is key 4's.
  text_NC = np.array([[0, 5, 9], [0, 6, -1], [1, 0, 5], [2, 7, 6], [3, 7, -1]])
  found = negatives.mask(text_NC)
  expected = np.array(
    [
      # Keys of the five, then their hard negatives.
      [0, 0, 0, 1, 1, 1, 0, 0, 1, 0],
      [0, 0, 0, 1, 1, 1, 0, 1, 0, 0],
      [1, 1, 0, 1, 1, 1, 0, 1, 1, 0],
      [1, 1, 1, 0, 0, 1, 0, 1, 1, 0],
      [1, 1, 1, 0, 0, 1, 0, 1, 1, 0],
    ],
    bool,
  )
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(jax.jit(negatives.mask)(text_NC), expected)


@pytest.mark.parametrize(
  ('kind', 'of_scores'),
  [
    ('contrastive', ''),
    ('contrastive', 'cosent'),
    ('contrastive', 'angle'),
    ('cosent', ''),
    ('angle', ''),
  ],
)
def test_the_loss_is_that_of_the_whole_batch(kind, of_scores):
  """Without a key there is no dropout: the loss by hand."""
  step_model = model()
  found = batch() if (kind, of_scores) == ('contrastive', '') else scored()
  embedding_SD = jnp.stack(
    [
      step_model.encoder(
        found['token'][None, row], found['owner'][None, row] > 0
      )[0]
      for row in range(24)
    ]
  )
  embedding_NCD = embedding_SD.reshape(8, 3, -1)
  query_ND, key_NKD = embedding_NCD[:, 0], embedding_NCD[:, 1:]
  embedded = text_step._embed_part(step_model.encoder, found, None)
  np.testing.assert_allclose(embedded['query'], query_ND, atol=1e-6)
  np.testing.assert_allclose(embedded['key'], key_NKD, atol=1e-6)
  objective = text_step.Objective(
    kind, DIMS, temperature=0.2, of_scores=of_scores or 'cosent'
  )
  loss, _ = objective.loss(
    step_model, {'query': query_ND, 'key': key_NKD}, found, None
  )
  if 'score' not in found:
    keys = jnp.concatenate([key_NKD[:, 0], key_NKD[:, 1]])
    right, _ = losses.matryoshka_contrastive(
      query_ND, keys, nesting_dims=DIMS, temperature=0.2, symmetric=False
    )
  else:
    ranked = getattr(losses, f'matryoshka_{of_scores or kind}')
    right, _ = ranked(
      query_ND,
      key_NKD[:, 0],
      found['score'],
      nesting_dims=DIMS,
      temperature=0.2,
    )
  np.testing.assert_allclose(loss, right, rtol=1e-6)


def test_distillation_adds_both_losses():
  rng = np.random.default_rng(0)
  query_ND, teacher_NE = rng.normal(size=(2, 4, 8)).astype(np.float32)
  found = {}
  for share in (0, 0.25, 1):
    # A batch of a teacher has its loss beside pairs, too.
    objective = text_step.Objective(
      'contrastive', DIMS, temperature=0.2, similarity_share=share
    )
    _, found[share] = objective.loss(
      None, {'query': query_ND}, {'teacher': teacher_NE}, (1, 1, 1)
    )
  _, right_G = losses.matryoshka_similarity(
    query_ND, teacher_NE, nesting_dims=DIMS, temperature=0.2
  )
  np.testing.assert_allclose(found[1], right_G, rtol=1e-6)
  mixed_G = 0.75 * found[0] + 0.25 * found[1]
  np.testing.assert_allclose(found[0.25], mixed_G, rtol=1e-6)


def uncached(embed, loss, params, batch, key, parts):
  """The same parts and keys, differentiated through as a whole."""
  split = lambda x, i: x[i::parts]

  def whole(params):
    embedded = [
      embed(
        params,
        jax.tree.map(functools.partial(split, i=i), batch),
        jax.random.fold_in(key, i),
      )
      for i in range(parts)
    ]
    joined = jax.tree.map(
      lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:]), *embedded
    )
    return loss(params, joined, batch)

  return jax.grad(whole, has_aux=True)(params)


@pytest.mark.parametrize('kind', ['contrastive', 'classification'])
def test_cached_gradients_equal_uncached_ones(kind):
  head = 'mrl' if kind == 'classification' else 'none'
  graphdef, state = state_lib.create(model(head), optax.sgd(0.1))
  objective = text_step.Objective(kind, DIMS, temperature=0.2)
  found = batch(keys=0 if kind == 'classification' else 2, parts=4)
  merged = lambda params: nnx.merge(graphdef, params, {})

  def embed(params, part, key):
    return text_step._embed_part(merged(params).encoder, part, key)

  def loss(params, embedded, batch):
    return objective.loss(merged(params), embedded, batch, None)

  args = embed, loss, state.params, found, jax.random.key(1), 4
  run = lambda f: jax.jit(lambda: f(*args))()
  grads, loss_G = run(cached_gradient.gradient)
  expected, right_G = run(uncached)
  np.testing.assert_allclose(loss_G, right_G, rtol=1e-6)
  for x, right in zip(*map(jax.tree.leaves, (grads, expected)), strict=True):
    assert np.abs(right).max() > 0
    np.testing.assert_allclose(x, right, rtol=1e-4, atol=1e-6)
  # The dropout of the parts differs from that of one.
  other, _ = run(lambda *args: cached_gradient.gradient(*args[:-1], parts=1))
  assert any(
    np.abs(x - y).max() > 1e-4
    for x, y in zip(*map(jax.tree.leaves, (grads, other)), strict=True)
  )


def static(rngs):
  settings = text_models.Settings(
    static_text.Variant(VOCABULARY, 8, 6), normalise=False
  )
  return text_models.create(settings, rngs=rngs)


def test_parts_and_devices_change_nothing():
  results = []
  for parts, devices in ((1, 1), (4, 1), (2, 8)):
    mesh = sharding.make_mesh(devices)
    everywhere, made = sharding.replicated(mesh), model(encoder=static)
    step, state = step_of(made=made, parts=parts, sharding=everywhere)
    state = jax.device_put(state, everywhere)
    found = batch(16, parts=parts, devices=devices)
    on_mesh = sharding.shard_batch(found, mesh)
    results.append(jax.device_get(step(state, on_mesh)))
  for other in results[1:]:
    leaves = map(jax.tree.leaves, (other, results[0]))
    for x, right in zip(*leaves, strict=True):
      np.testing.assert_allclose(x, right, rtol=1e-4, atol=1e-6)
  state, values = results[0]
  assert state.step == 1 and values['loss_G'].shape == (3,)


def test_static_embeddings_are_weighted_means():
  encoder = static(nnx.Rngs(0))
  encoder.backbone.weights[...] = jnp.arange(20.0)
  table_VD = encoder.backbone.embeddings[...]
  token_NT = jnp.array([[3, 5, 1], [2, 0, 0]])
  mask_NT = jnp.array([[True, True, False], [False] * 3])
  found = encoder(token_NT, mask_NT)
  right = (3 * table_VD[3] + 5 * table_VD[5]) / 2
  np.testing.assert_allclose(found, [right, 0 * right], rtol=1e-6)
