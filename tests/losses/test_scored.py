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


@pytest.mark.parametrize('name', ['CoSENTLoss', 'AnglELoss'])
def test_equals_sentence_transformers(name):
  torch = pytest.importorskip('torch')
  peers = pytest.importorskip('sentence_transformers.losses')
  from sentence_transformers import util

  ours = {
    'CoSENTLoss': losses.matryoshka_cosent,
    'AnglELoss': losses.matryoshka_angle,
  }[name]
  similarity = {
    'CoSENTLoss': util.pairwise_cos_sim,
    'AnglELoss': util.pairwise_angle_sim,
  }[name]
  theirs = getattr(peers, name)(None)
  args = arguments()

  def loss(a_ND, b_ND):
    return ours(a_ND, b_ND, args[2], nesting_dims=DIMS, temperature=1 / 20)[0]

  value, grads = jax.value_and_grad(loss, argnums=(0, 1))(*args[:2])
  theirs.similarity_fct = similarity
  tensors = [torch.tensor(np.asarray(x)) for x in args]
  a, b = (x.requires_grad_() for x in tensors[:2])
  total = sum(
    theirs.compute_loss_from_embeddings([a[:, :m], b[:, :m]], tensors[2])
    for m in DIMS
  )
  total.backward()
  np.testing.assert_allclose(value, total.item(), rtol=1e-5)
  for x, right in zip(grads, (a.grad, b.grad), strict=True):
    np.testing.assert_allclose(x, right.numpy(), rtol=1e-3, atol=1e-4)


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
