"""Projections, under the same searches as nested embeddings."""

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import projections

M, Q, D = 300, 20, 12


@pytest.fixture(scope='module')
def data():
  random = np.random.default_rng(0)
  mix = random.standard_normal((D, D)) * np.arange(1, D + 1) ** -1.0
  rows = random.standard_normal((M + Q, D)) @ mix.T + 1
  return rows[M:].astype(np.float32), rows[:M].astype(np.float32)


@pytest.mark.parametrize('center', [False, True])
def test_principal_is_the_svd(data, center):
  rows = data[1].astype(np.float64)
  projection = projections.principal(data[1], 4, center=center)
  mean = rows.mean(0) if center else 0
  vectors = np.linalg.svd(rows - mean)[2][:4].T
  alignment = np.abs((vectors * projection.matrix_DW).sum(0))
  np.testing.assert_allclose(alignment, 1, atol=1e-5)
  np.testing.assert_allclose(
    projection(data[0]), (data[0] - mean) @ projection.matrix_DW, atol=1e-4
  )
  assert (
    np.abs(projection.matrix_DW).max(0) == projection.matrix_DW.max(0)
  ).all()


def test_svd_keeps_cosines_at_full_width(data):
  svd = projections.principal(data[1])
  a = retrieval.search(*data, 10)
  b = retrieval.search(svd(data[0]), svd(data[1]), 10)
  np.testing.assert_array_equal(a.ids_QK, b.ids_QK)


def test_a_prefix_is_the_projection_of_that_width(data):
  wide, narrow = (projections.principal(data[1], dim) for dim in (8, 3))
  np.testing.assert_allclose(wide(data[0])[:, :3], narrow(data[0]), atol=1e-5)


def test_selection_picks_different_dims(data):
  picked = projections.selection(D, 5, seed=3)(data[0])
  columns = [
    int(np.flatnonzero((data[0] == column[:, None]).all(0))[0])
    for column in picked.T
  ]
  assert len(set(columns)) == 5
  again = projections.selection(D, 5, seed=3)(data[0])
  np.testing.assert_array_equal(picked, again)
  assert (picked != projections.selection(D, 5, seed=4)(data[0])).any()


def test_gaussian_keeps_dot_products_on_average():
  projection = projections.gaussian(2000, seed=0)
  rows = np.random.default_rng(1).standard_normal((6, 2000)).astype(np.float32)
  out = projection(rows)
  np.testing.assert_allclose(out @ out.T, rows @ rows.T, atol=250)
  np.testing.assert_allclose(
    np.square(out).sum(1), np.square(rows).sum(1), rtol=0.12
  )


def test_projected_arrays_funnel(data):
  svd = projections.principal(data[1])
  found = retrieval.funnel(
    svd(data[0]), svd(data[1]), dims=(2, 6, D), shortlists=(M, M, 5)
  )
  expected = retrieval.search(*data, 5)
  np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)


@pytest.mark.parametrize(
  ('call', 'match'),
  [
    (lambda q, x: projections.principal(x, 13), '13 is beyond'),
    (lambda q, x: projections.principal(x * np.nan), 'row 0 is not finite'),
    (lambda q, x: projections.selection(D, 0, seed=0), 'not positive'),
    (lambda q, x: projections.gaussian(D, seed=0)(x[:, :5]), 'must be .N, 12'),
  ],
)
def test_bad_input_is_refused(data, call, match):
  with pytest.raises(ValueError, match=match):
    call(*data)
