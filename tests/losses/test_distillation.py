"""Losses of a teacher's vectors, against float64."""

import jax
import numpy as np
import pytest

from mrl_jax import losses

DIMS = (2, 4, 20)
WEIGHTS = (2, 1, 0.5)


def arguments(count=6, width=24):
  rng = np.random.default_rng(0)
  embedding_ND, teacher_NE = rng.normal(size=(2, count, width))
  return embedding_ND.astype(np.float32), teacher_NE.astype(np.float32)


def unit(x_ND):
  x_ND = np.asarray(x_ND, np.float64)
  return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def plain_mse(embedding_ND, teacher_NE):
  return [
    ((unit(embedding_ND[:, :m]) - unit(teacher_NE[:, :m])) ** 2).sum(1).mean()
    for m in DIMS
  ]


def shares(x_ND, i, temperature):
  """The distribution of row i over the others."""
  x_ND = unit(x_ND)
  cosine_M = np.delete(x_ND @ x_ND[i], i) / temperature
  power_M = np.exp(cosine_M)
  return power_M / power_M.sum()


def plain_similarity(embedding_ND, teacher_NE, temperature):
  found_G = []
  for m in DIMS:
    each = []
    for i in range(len(embedding_ND)):
      p_M = shares(teacher_NE, i, temperature)
      q_M = shares(embedding_ND[:, :m], i, temperature)
      each.append((p_M * np.log(p_M / q_M)).sum())
    found_G.append(np.mean(each))
  return found_G


@pytest.mark.parametrize('kind', ['mse', 'similarity'])
def test_equals_float64(kind):
  embedding_ND, teacher_NE = arguments()
  if kind == 'mse':
    function, plain, options = losses.matryoshka_mse, plain_mse, {}
  else:
    # The teacher is of another width.
    teacher_NE = teacher_NE[:, :7]
    function, plain = losses.matryoshka_similarity, plain_similarity
    options = {'temperature': 0.2}
  compute = lambda x_ND: function(
    x_ND, teacher_NE, nesting_dims=DIMS, weights_G=WEIGHTS, **options
  )
  (loss, loss_G), grad_ND = jax.jit(jax.value_and_grad(compute, has_aux=True))(
    embedding_ND
  )
  right_G = plain(embedding_ND, teacher_NE, **options)
  np.testing.assert_allclose(loss_G, right_G, rtol=1e-5)
  np.testing.assert_allclose(loss, np.dot(WEIGHTS, right_G), rtol=1e-5)
  # Its gradient, by central differences in float64.
  total = lambda x: np.dot(WEIGHTS, plain(x, teacher_NE, **options))
  for place in ((0, 0), (3, 2), (5, 19)):
    step_ND = np.zeros(embedding_ND.shape)
    step_ND[place] = 1e-5
    x_ND = embedding_ND.astype(np.float64)
    slope = (total(x_ND + step_ND) - total(x_ND - step_ND)) / 2e-5
    np.testing.assert_allclose(grad_ND[place], slope, rtol=1e-3, atol=1e-6)
  assert not grad_ND[:, DIMS[-1] :].any()


def test_a_pupil_that_equals_its_teacher_has_no_loss():
  _, teacher_NE = arguments()
  loss, _ = losses.matryoshka_mse(2 * teacher_NE, teacher_NE, nesting_dims=DIMS)
  assert abs(loss) < 1e-5
  loss, _ = losses.matryoshka_similarity(
    2 * teacher_NE, teacher_NE, nesting_dims=(24,)
  )
  assert abs(loss) < 1e-5


def test_a_row_of_zeros_has_a_finite_gradient():
  embedding_ND, teacher_NE = arguments()
  embedding_ND[0] = 0
  for function in (losses.matryoshka_mse, losses.matryoshka_similarity):
    loss = lambda x, f=function: f(x, teacher_NE, nesting_dims=DIMS)[0]
    grad_ND = jax.jit(jax.grad(loss))(embedding_ND)
    assert np.isfinite(grad_ND).all()


def test_refuses():
  embedding_ND, teacher_NE = arguments()
  for function in (losses.matryoshka_mse, losses.matryoshka_similarity):
    with pytest.raises(ValueError, match='must have as many rows'):
      function(embedding_ND, teacher_NE[1:], nesting_dims=DIMS)
  with pytest.raises(ValueError, match='of width 7: must have the 20 numbers'):
    losses.matryoshka_mse(embedding_ND, teacher_NE[:, :7], nesting_dims=DIMS)
  with pytest.raises(ValueError, match='temperature 0'):
    losses.matryoshka_similarity(
      embedding_ND, teacher_NE, nesting_dims=DIMS, temperature=0
    )
  with pytest.raises(ValueError, match='two rows or more'):
    losses.matryoshka_similarity(
      embedding_ND[:1], teacher_NE[:1], nesting_dims=DIMS
    )
