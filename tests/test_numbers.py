"""What users bring is converted or refused; searches against float64."""

import numpy as np

from mrl_jax import retrieval

RNG = np.random.default_rng(0)
QUERIES = RNG.normal(size=(3, 8)).astype(np.float32)
ROWS = RNG.normal(size=(20, 8)).astype(np.float32)


def oracle(query_QD, row_MD, dim, cosine=True):
  """Scores in float64, 0 where a prefix is shorter than 1e-13."""
  parts = []
  for x_ND in (query_QD, row_MD):
    x_Nd = np.asarray(x_ND, np.float64)[:, :dim]
    if cosine:
      norm_N1 = np.linalg.norm(x_Nd, axis=1, keepdims=True)
      x_Nd = np.where(norm_N1 < 1e-13, 0, x_Nd / np.maximum(norm_N1, 1e-300))
    parts.append(x_Nd)
  return parts[0] @ parts[1].T


def check(found, score_QM, k, cosine=True):
  """The k best, in their order, to within the rounding of float32."""
  scale = max(1.0, np.abs(score_QM).max())
  assert found.ids_QK.shape == (len(score_QM), k)
  found_QK = np.take_along_axis(score_QM, found.ids_QK, 1)
  best_QK = -np.sort(-score_QM, axis=1)[:, :k]
  np.testing.assert_allclose(found_QK, best_QK, atol=3e-6 * scale)
  np.testing.assert_allclose(found.scores_QK, found_QK, atol=3e-6 * scale)
  assert all(len(set(ids)) == k for ids in found.ids_QK.tolist())
  assert (np.diff(found.scores_QK, axis=1) <= 0).all()
  tied = np.diff(found.scores_QK, axis=1) == 0
  assert (np.diff(found.ids_QK, axis=1)[tied] > 0).all()
  if cosine:
    assert np.abs(found.scores_QK).max() <= 1


def draw(rng):
  """Queries and rows of one random kind of numbers."""
  M, D = int(rng.choice([1, 2, 7, 40, 90])), int(rng.choice([1, 3, 8, 70]))
  Q, kind = int(rng.choice([1, 2, 9])), rng.integers(7)
  rows, queries = rng.normal(size=(M, D)), rng.normal(size=(Q, D))
  if kind == 1:  # Copies, some of them longer.
    rows = rows[rng.integers(0, max(1, M // 4), M)] * rng.choice([1, 4], (M, 1))
  if kind == 2:  # All are equal.
    rows[:] = rows[0]
  if kind == 3:
    rows, queries = rows * 1e17, queries * 1e-10
  if kind == 4:  # Prefixes without a direction.
    rows[::2, : D - 1] = rng.choice([0.0, -0.0, 1e-25])
    queries[0, : D - 1] = 0
  if kind == 5:  # The queries are rows.
    queries = rows[rng.integers(0, M, Q)]
  if kind == 6:  # One dim dwarfs the others.
    rows[:, 0] -= 30
    queries[:, 0] -= 30
  dtype = [np.float32, np.float64, np.float16][rng.integers(3)]
  if kind == 3 and dtype == np.float16:
    dtype = np.float32
  rows, queries = rows.astype(dtype), queries.astype(dtype)
  form = [
    np.ascontiguousarray,
    np.asfortranarray,
    lambda x: x.repeat(2, 0)[::2],
  ]
  rows = form[rng.integers(3)](rows)
  rows.flags.writeable = False
  return queries, rows


def run_case(rng):
  """One search of a random kind, compared with the oracle."""
  queries, rows = draw(rng)
  (Q, D), M = queries.shape, len(rows)
  dim, k = int(rng.integers(1, D + 1)), int(rng.integers(1, M + 1))
  cosine = bool(rng.integers(2))
  metric = 'cosine' if cosine else 'dot'
  own_Q = rng.integers(-1, M, Q) if rng.integers(2) and M > 1 else False
  score_QM = oracle(queries, rows, dim, cosine)
  if own_Q is not False:
    k = min(k, M - 1)
    score_QM[np.arange(Q), own_Q] = np.where(
      own_Q < 0, score_QM[np.arange(Q), own_Q], -np.inf
    )
  way = rng.integers(4)
  if way == 0:
    cut = (
      queries[:, :dim]
      if np.linalg.norm(queries[:, :dim].astype(np.float32), axis=1).min()
      > 1e-13
      else queries
    )
    found = retrieval.search(
      cut, rows, np.uint8(k), dim=dim, metric=metric, leave_one_out=own_Q
    )
  elif way == 1:
    ids = np.stack([rng.permutation(M) for _ in range(Q)]).astype(np.int16)
    found = retrieval.rerank(
      queries, rows, ids, k, dim=dim, metric=metric, leave_one_out=own_Q
    )
  elif way == 2 and dim > 1:
    most = M - (own_Q is not False)
    found = retrieval.funnel(
      queries,
      rows,
      dims=(1, dim),
      shortlists=(most, k),
      metric=metric,
      leave_one_out=own_Q,
    )
  else:
    database = retrieval.prepare(rows, sorted({max(1, D // 8), D}))
    found = retrieval.search(
      queries, database, k, dim=dim, metric=metric, leave_one_out=own_Q
    )
  finite = np.where(np.isfinite(score_QM), score_QM, -1e300)
  scale = np.abs(score_QM[np.isfinite(score_QM)]).max(initial=1)
  assert own_Q is not False or True
  if own_Q is not False:
    assert not (found.ids_QK == own_Q[:, None]).any()
  best_QK = -np.sort(-finite, axis=1)[:, :k]
  found_QK = np.take_along_axis(finite, found.ids_QK, 1)
  np.testing.assert_allclose(found_QK, best_QK, atol=3e-6 * scale)
  np.testing.assert_allclose(found.scores_QK, found_QK, atol=3e-6 * scale)
  tied = np.diff(found.scores_QK, axis=1) == 0
  assert (np.diff(found.ids_QK, axis=1)[tied] > 0).all()
  if cosine:
    assert np.abs(found.scores_QK).max() <= 1


def test_random_cases_against_float64():
  for case in range(120):
    run_case(np.random.default_rng(case))
