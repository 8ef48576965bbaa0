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


@pytest.mark.parametrize('label', [-1, 3])
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
