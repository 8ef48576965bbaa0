import math

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import losses

# Two granularities, two examples, three classes.
LOGITS = jnp.log(
  jnp.array(
    [
      [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]],
      [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]],
    ]
  )
)
LABELS = jnp.array([0, 1])


def test_by_hand():
  loss, loss_G = losses.matryoshka_cross_entropy(LOGITS, LABELS)
  expected = [
    -(math.log(0.5) + math.log(0.2)) / 2,
    -(math.log(0.8) + math.log(0.1)) / 2,
  ]
  np.testing.assert_allclose(loss_G, expected, rtol=1e-6)
  # The sum over granularities, not their mean.
  np.testing.assert_allclose(loss, sum(expected), rtol=1e-6)


def test_weights_scale_each_granularity():
  _, loss_G = losses.matryoshka_cross_entropy(LOGITS, LABELS)
  loss, unweighted_G = losses.matryoshka_cross_entropy(
    LOGITS, LABELS, weights_G=(2, 0.5)
  )
  np.testing.assert_allclose(loss, 2 * loss_G[0] + 0.5 * loss_G[1], rtol=1e-6)
  chex.assert_trees_all_equal(unweighted_G, loss_G)


def test_label_smoothing_by_hand():
  _, loss_G = losses.matryoshka_cross_entropy(
    LOGITS, LABELS, label_smoothing=0.1
  )
  # 0.9 of the label's, and 0.1 spread over all three classes.
  first = -(0.9 * math.log(0.5) + 0.1 / 3 * math.log(0.5 * 0.25 * 0.25))
  second = -(0.9 * math.log(0.2) + 0.1 / 3 * math.log(0.2 * 0.2 * 0.6))
  np.testing.assert_allclose(loss_G[0], (first + second) / 2, rtol=1e-6)


@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_gradients(label_smoothing):
  logits_GNC = jax.random.normal(jax.random.key(0), (3, 4, 5))
  label_N = jnp.array([0, 4, 2, 2])
  chex.assert_numerical_grads(
    lambda x: losses.matryoshka_cross_entropy(
      x, label_N, weights_G=(1, 2, 3), label_smoothing=label_smoothing
    )[0],
    (logits_GNC,),
    order=1,
  )


def test_bfloat16_logits_lose_nothing_further():
  logits_GNC = LOGITS.astype(jnp.bfloat16)
  loss, _ = losses.matryoshka_cross_entropy(logits_GNC, LABELS)
  expected, _ = losses.matryoshka_cross_entropy(
    logits_GNC.astype(jnp.float32), LABELS
  )
  assert loss.dtype == jnp.float32
  chex.assert_trees_all_equal(loss, expected)


@pytest.mark.parametrize('label', [-2, 3])
def test_refuses_labels_outside(label):
  with pytest.raises(ValueError, match=f'label {label} at position 1'):
    losses.matryoshka_cross_entropy(LOGITS, jnp.array([0, label]))


@pytest.mark.parametrize(
  'logits, labels, kwargs, match',
  [
    (LOGITS[0], LABELS, {}, r'\(2, 3\)'),
    (LOGITS, LABELS[:1], {}, r'\(1,\)'),
    (LOGITS[:, :0], LABELS[:0], {}, 'at least 1'),
    (LOGITS, LABELS, {'weights_G': (1,)}, '1 weights for 2'),
    (LOGITS, LABELS, {'weights_G': (1, -2)}, r'-2\.0'),
    (LOGITS, LABELS, {'label_smoothing': 1.0}, '1.0'),
    (LOGITS, LABELS, {'label_smoothing': -0.1}, '-0.1'),
  ],
)
def test_refuses(logits, labels, kwargs, match):
  with pytest.raises(ValueError, match=match):
    losses.matryoshka_cross_entropy(logits, labels, **kwargs)


def test_label_minus_one_is_ignored():
  label_N = np.array([0, -1], np.int8)
  expected, expected_G = losses.matryoshka_cross_entropy(
    LOGITS[:, :1], LABELS[:1], label_smoothing=0.1
  )
  for function in (
    losses.matryoshka_cross_entropy,
    jax.jit(losses.matryoshka_cross_entropy, static_argnames='label_smoothing'),
  ):
    loss, loss_G = function(LOGITS, label_N, label_smoothing=0.1)
    np.testing.assert_allclose(loss_G, expected_G, rtol=1e-6)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
  gradient = jax.grad(
    lambda x: losses.matryoshka_cross_entropy(x, jnp.array(label_N))[0]
  )(LOGITS)
  assert not gradient[:, 1].any() and gradient[:, 0].any()
  loss, _ = losses.matryoshka_cross_entropy(LOGITS, [-1, -1])
  assert loss == 0


@pytest.mark.parametrize('label', [-2, -100, 3])
def test_under_jit_a_label_that_is_no_class_is_no_number(label):
  loss, _ = jax.jit(losses.matryoshka_cross_entropy)(
    LOGITS, jnp.array([0, label])
  )
  assert jnp.isnan(loss)


def test_labels_of_floats_are_refused():
  with pytest.raises(
    ValueError, match=r'label_N, float64 .*: must be integers'
  ):
    losses.matryoshka_cross_entropy(LOGITS, np.array([0.0, 1.0]))


def test_contrastive_prefixes_without_a_direction():
  """A prefix of 1e-20 is as one of zeros: its row pairs with nothing."""
  x_ND = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
  found = []
  for value in (0, 1e-20):
    x_ND[1, :2] = value
    function = lambda x: losses.matryoshka_contrastive(
      x, x, nesting_dims=(2, 8), temperature=0.1
    )[0]
    loss, gradient = jax.value_and_grad(function)(jnp.asarray(x_ND))
    assert jnp.isfinite(gradient).all()
    found.append(loss)
  np.testing.assert_allclose(*found)
