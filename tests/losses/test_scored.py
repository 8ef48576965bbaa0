"""Losses of scored pairs, against float64 and sentence-transformers."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import losses

DIMS = (2, 4, 20)


def arguments(count=12):
  keys = jax.random.split(jax.random.key(0), 3)
  a_ND = jax.random.normal(keys[0], (count, 24))
  b_ND = a_ND + jax.random.normal(keys[1], (count, 24))
  # Some scores are equal.
  return a_ND, b_ND, jax.random.randint(keys[2], (count,), 0, 5) / 5


def plain_cosent(a_ND, b_ND, score_N, temperature):
  loss_G = []
  for m in DIMS:
    a, b = a_ND[:, :m], b_ND[:, :m]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / norms / temperature
    total = 1.0
    for i in range(len(a)):
      for j in range(len(a)):
        if score_N[i] > score_N[j]:
          total += np.exp(cosine[j] - cosine[i])
    loss_G.append(np.log(total))
  return loss_G


def test_cosent_equals_float64():
  args = arguments()
  loss, loss_G = losses.matryoshka_cosent(
    *args, nesting_dims=DIMS, temperature=0.2, weights_G=(2, 1, 0.5)
  )
  expected_G = plain_cosent(*(np.asarray(x, np.float64) for x in args), 0.2)
  np.testing.assert_allclose(loss_G, expected_G, rtol=1e-5)
  np.testing.assert_allclose(loss, np.dot((2, 1, 0.5), expected_G), rtol=1e-5)


def exact_angle(a_ND, b_ND, score_N, temperature):
  """AnglE at every prefix by complex numbers, as its paper has it."""
  loss_G = []
  for m in DIMS:
    z_NH, w_NH = (x[:, : m // 2] + 1j * x[:, m // 2 : m] for x in (a_ND, b_ND))
    norm = lambda x: jnp.sqrt((abs(x) ** 2).sum(1, keepdims=True))
    # The quotient, as a product with the conjugate.
    turned_NH = z_NH / norm(z_NH) * jnp.conj(w_NH / norm(w_NH))
    angle_N = abs((turned_NH.real + turned_NH.imag).sum(1)) / temperature
    gap_NN = angle_N[None, :] - angle_N[:, None]
    above_NN = score_N[:, None] > score_N[None, :]
    loss_G.append(jnp.log1p(jnp.where(above_NN, jnp.exp(gap_NN), 0).sum()))
  return sum(loss_G)


def test_angle_equals_float64():
  args = arguments()

  def loss(a_ND, b_ND):
    return losses.matryoshka_angle(
      a_ND, b_ND, args[2], nesting_dims=DIMS, temperature=0.2
    )[0]

  actual = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*args[:2])
  with jax.enable_x64(True):
    exact = jax.jit(jax.value_and_grad(exact_angle, argnums=(0, 1)))(
      *(jnp.asarray(np.asarray(x, np.float64)) for x in args), 0.2
    )
  for x, right in zip(*map(jax.tree.leaves, (actual, exact)), strict=True):
    np.testing.assert_allclose(x, np.asarray(right), rtol=1e-3, atol=1e-4)


def test_equal_scores_have_no_loss():
  a_ND, b_ND, _ = arguments(4)
  loss, grad_ND = jax.value_and_grad(
    lambda x: losses.matryoshka_cosent(x, b_ND, jnp.ones(4), nesting_dims=DIMS)[
      0
    ]
  )(a_ND)
  assert loss == 0 and not grad_ND.any()


def test_refuses():
  a_ND, b_ND, score_N = arguments(4)
  with pytest.raises(ValueError, match='must be pairs with a score each'):
    losses.matryoshka_cosent(a_ND, b_ND[1:], score_N, nesting_dims=DIMS)
  with pytest.raises(ValueError, match=r'\(2, 5\): must be even'):
    losses.matryoshka_angle(a_ND, b_ND, score_N, nesting_dims=(2, 5))
  with pytest.raises(ValueError, match='temperature -1'):
    losses.matryoshka_cosent(
      a_ND, b_ND, score_N, nesting_dims=DIMS, temperature=-1
    )
