import chex
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from mrl_jax.training import optim


def test_cyclic_reproduces_the_released_log():
  schedule = optim.schedule(
    'cyclic', 0.425, steps_per_epoch=1251, num_epochs=40, peak_epoch=2
  )
  # The last learning rate of epoch 0 in the released training logs.
  np.testing.assert_allclose(schedule(1250), 0.21235140287769783, rtol=1e-6)
  np.testing.assert_allclose(schedule(0), 1e-4 * 0.425, rtol=1e-6)
  np.testing.assert_allclose(schedule(2 * 1251), 0.425, rtol=1e-6)
  np.testing.assert_allclose(schedule(21 * 1251), 0.2125, rtol=1e-6)
  np.testing.assert_allclose(schedule(40 * 1251), 0, atol=1e-9)


def test_other_schedules():
  make = lambda name, **kwargs: optim.schedule(
    name, 0.1, steps_per_epoch=10, num_epochs=10, **kwargs
  )
  cosine = make('cosine', peak_epoch=1)
  np.testing.assert_allclose(
    [cosine(0), cosine(5), cosine(10), cosine(55), cosine(100)],
    [0, 0.05, 0.1, 0.05, 0],
    atol=1e-8,
  )
  step = make('step', step_epochs=(3, 6), step_factor=0.1)
  np.testing.assert_allclose(
    [step(0), step(29), step(31), step(61)], [0.1, 0.1, 0.01, 0.001], rtol=1e-6
  )
  assert make('constant')(77) == 0.1
  falling = make('cyclic', peak_epoch=0)
  np.testing.assert_allclose([falling(0), falling(50)], [0.1, 0.05], rtol=1e-6)


@pytest.mark.parametrize(
  'name, peak_epoch, match', [('linear', 0, 'linear'), ('cyclic', 10, '10')]
)
def test_schedule_refuses(name, peak_epoch, match):
  with pytest.raises(ValueError, match=match):
    optim.schedule(
      name, 0.1, steps_per_epoch=1, num_epochs=10, peak_epoch=peak_epoch
    )


def test_sgd_by_hand():
  tx = optim.sgd(0.1, momentum=0.9, weight_decay=0.5)
  params = {'kernel': jnp.array(2.0)}
  state = tx.init(params)
  # The decay joins the gradient before the momentum: 1 + 0.5 * 2 = 2.
  updates, state = tx.update({'kernel': jnp.array(1.0)}, state, params)
  params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params['kernel'], 2 - 0.1 * 2, rtol=1e-6)
  updates, state = tx.update({'kernel': jnp.array(1.0)}, state, params)
  buffer = 0.9 * 2 + (1 + 0.5 * 1.8)
  np.testing.assert_allclose(updates['kernel'], -0.1 * buffer, rtol=1e-6)


def test_sgd_equals_torch():
  torch = pytest.importorskip('torch', reason='torch is not installed')
  rng = np.random.default_rng(0)
  start, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
  theirs = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
  sgd = torch.optim.SGD([theirs], lr=0.3, momentum=0.9, weight_decay=0.02)
  tx = optim.sgd(0.3, momentum=0.9, weight_decay=0.02)
  params = {'kernel': jnp.asarray(start, jnp.float32)}
  state = tx.init(params)
  for gradient in gradients:
    theirs.grad = torch.tensor(gradient, dtype=torch.float32)
    sgd.step()
    gradient = {'kernel': jnp.asarray(gradient, jnp.float32)}
    updates, state = tx.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(
    params['kernel'], theirs.detach().numpy(), rtol=1e-5
  )


@pytest.mark.parametrize(
  'name, decaying',
  [
    ('all', {'conv', 'bn1', 'norm', 'kernel', 'bias'}),
    ('no_norm_no_bias', {'conv', 'kernel'}),
    # The released code's filter looks for 'bn' in the name.
    ('reference', {'conv', 'norm', 'kernel', 'bias'}),
  ],
)
def test_decay_masks(name, decaying):
  params = {
    'encoder': {
      'conv1': {'conv': {'kernel': 'conv'}},
      'bn1': {'scale': 'bn1', 'bias': 'bn1'},
      'downsample': {'norm': {'scale': 'norm', 'bias': 'norm'}},
    },
    'head': {'kernel': 'kernel', 'bias': 'bias'},
  }
  mask = optim.decay_mask(name)(params)
  expected = jax.tree.map(lambda label: label in decaying, params)
  chex.assert_trees_all_equal(mask, expected)


def test_decay_mask_refuses():
  with pytest.raises(ValueError, match='some'):
    optim.decay_mask('some')


def test_adamw_equals_torch():
  torch = pytest.importorskip('torch', reason='torch is not installed')
  rng = np.random.default_rng(0)
  start, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
  theirs = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
  options = {'betas': (0.8, 0.95), 'weight_decay': 0.2}
  adamw = torch.optim.AdamW([theirs], lr=0.1, **options)
  tx = optim.adamw(0.1, **options)
  params = {'kernel': jnp.asarray(start, jnp.float32)}
  state = tx.init(params)
  for gradient in gradients:
    theirs.grad = torch.tensor(gradient, dtype=torch.float32)
    adamw.step()
    gradient = {'kernel': jnp.asarray(gradient, jnp.float32)}
    updates, state = tx.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(
    params['kernel'], theirs.detach().numpy(), rtol=1e-5
  )


def test_adamw_by_hand():
  tx = optim.adamw(0.1, weight_decay=0.5, mask='no_norm_no_bias')
  params = {'kernel': jnp.array(2.0), 'bias': jnp.array(2.0)}
  grads = jax.tree.map(lambda _: jnp.array(3.0), params)
  updates, _ = tx.update(grads, tx.init(params), params)
  # The first step is the gradient's sign; the decay joins the kernel's.
  np.testing.assert_allclose(updates['kernel'], -0.1 * (1 + 1), rtol=1e-5)
  np.testing.assert_allclose(updates['bias'], -0.1, rtol=1e-5)
