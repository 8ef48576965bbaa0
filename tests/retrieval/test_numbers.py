"""What users bring is converted or refused; searches against float64."""

import os
import sys

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.analysis import few_shot
from mrl_jax.data.sources import vectors
from mrl_jax.retrieval import __main__ as command
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import quantized

# Some seconds; MRL_JAX_CASES=2000 takes minutes.
CASES = int(os.environ.get('MRL_JAX_CASES', 25))
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


def draw(rng):
  """Queries and rows of one random kind of numbers."""
  M, D = int(rng.choice([1, 2, 90])), int(rng.choice([1, 70]))
  Q, kind = 3, rng.integers(7)
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
  rows = [np.ascontiguousarray, np.asfortranarray][rng.integers(2)](rows)
  rows.flags.writeable = False
  return queries, rows


def run_case(rng):
  """One search of a random kind, compared with the oracle."""
  queries, rows = draw(rng)
  (Q, D), M = queries.shape, len(rows)
  dim, k = int(rng.choice([1, (D + 1) // 2, D])), int(rng.integers(1, M + 1))
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
  # A shortlist of all rows but one is exact only where that one is left out.
  elif way == 2 and dim > 1 and (own_Q is False or own_Q.min() >= 0):
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
  for case in range(CASES):
    run_case(np.random.default_rng(case))


@pytest.mark.parametrize(
  'convert',
  [
    lambda x: x.tolist(),
    list,
    lambda x: jnp.asarray(x),
    pytest.param(
      np.asmatrix,
      marks=pytest.mark.filterwarnings('ignore::PendingDeprecationWarning'),
    ),
    np.asfortranarray,
    np.ma.array,
    lambda x: pytest.importorskip('torch').tensor(x, requires_grad=True),
    lambda x: pytest.importorskip('pandas').DataFrame(x),
    lambda x: pytest.importorskip('pandas').Series(x.tolist()),
  ],
)
def test_what_is_converted(convert):
  expected = retrieval.search(QUERIES, ROWS, 5)
  found = retrieval.search(convert(QUERIES), convert(ROWS), np.uint8(5))
  np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
  quantized_ = quantized.quantize(convert(ROWS), 'int8')
  assert quantized_.search(convert(QUERIES), np.int8(2)).ids_QK.shape == (3, 2)


def test_queries_may_be_cut_to_dim():
  for call in (
    lambda q: retrieval.search(q, ROWS, 5, dim=4),
    lambda q: retrieval.funnel(q, ROWS, dims=(2, 4), shortlists=(9, 5)),
    lambda q: quantized.quantize(ROWS, 'int8', 4).search(q, 5),
  ):
    expected, found = call(QUERIES), call(QUERIES[:, :4])
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)


MASKED = np.ma.array(ROWS, mask=ROWS > 1)


@pytest.mark.parametrize(
  ('call', 'match'),
  [
    (lambda: retrieval.search(QUERIES, MASKED, 5), 'masked'),
    (lambda: retrieval.search([*MASKED], ROWS, 5), 'masked'),
    (lambda: retrieval.search([[1.0], [1.0, 2]], ROWS, 5), 'queries'),
    (lambda: retrieval.search(QUERIES.astype(complex), ROWS, 5), 'complex'),
    (lambda: retrieval.search(QUERIES, ROWS, 5.0), r'k 5\.0'),
    (lambda: retrieval.search(QUERIES, ROWS, True), 'k True'),
    (lambda: retrieval.search(QUERIES[0], ROWS, 5), r'query\[None\]'),
    (lambda: retrieval.search('text', ROWS, 5), 'queries'),
    (lambda: retrieval.search(None, ROWS, 5), 'queries'),
    (lambda: retrieval.prepare(ROWS, dtype='int8'), 'quantize'),
    (lambda: retrieval.prepare(ROWS, dtype='bogus'), 'bogus'),
    (lambda: retrieval.prepare(ROWS, mesh='cpu'), 'mesh'),
    (lambda: retrieval.rerank(QUERIES, ROWS, np.zeros((3, 2)), 1), 'float64'),
    (lambda: retrieval.search(QUERIES, ROWS, 5, leave_one_out=True), '3 quer'),
    (lambda: retrieval.search(ROWS, ROWS, 20, leave_one_out=True), '19'),
    (lambda: metrics.k_recall([[1]], [[-1]]), '-1'),
    (lambda: metrics.k_recall(np.array([[2**63]], np.uint64), [[1]]), 'beyond'),
  ],
)
def test_what_is_refused(call, match):
  with pytest.raises(ValueError, match=match) as caught:
    call()
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('shape', [(2,), (2, 1)])
def test_a_mesh_with_explicit_axes(shape):
  mesh = jax.make_mesh(shape, ('rows', 'more')[: len(shape)])
  database = retrieval.prepare(ROWS, mesh=mesh)
  with jax.set_mesh(mesh):
    found = retrieval.adaptive(
      QUERIES, database, 5, shortlist_dim=2, rerank_dim=8, shortlist=9
    )
  expected = retrieval.adaptive(
    QUERIES, ROWS, 5, shortlist_dim=2, rerank_dim=8, shortlist=9
  )
  np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)


def test_few_programs_are_compiled_for_many_numbers_of_queries():
  from mrl_jax.retrieval.mesh import kernels

  mesh = jax.make_mesh((2,), ('rows',))
  database = retrieval.prepare(ROWS, mesh=mesh)
  before = kernels.nearest._cache_size(), kernels.rescore._cache_size()
  query_QD = np.resize(QUERIES, (33, QUERIES.shape[1]))
  for count in (1, 2, 5, 8, 9, 15, 33):
    options = {'dims': (2, 3), 'shortlists': (4, 3)}
    found = retrieval.funnel(query_QD[:count], database, **options)
    expected = retrieval.funnel(query_QD[:count], ROWS, **options)
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    np.testing.assert_allclose(found.scores_QK, expected.scores_QK, atol=1e-6)
  after = kernels.nearest._cache_size(), kernels.rescore._cache_size()
  # Of 8, 16 and 64 queries.
  assert np.subtract(after, before).tolist() == [3, 3]


def test_labels_and_ids_of_narrow_types():
  ids = np.array([[200, 3], [130, 7]], np.uint8)
  assert metrics.k_recall(ids, ids) == 1
  label = np.array([2**62, 5, 2**62], np.uint64)
  assert metrics.count_relevant(label, label.astype(np.int64)).tolist() == [
    2,
    1,
    2,
  ]
  assert metrics.count_relevant(label, label, leave_one_out=True).tolist() == [
    1,
    0,
    1,
  ]


def test_recall_is_never_above_one():
  label_QK, label_Q = np.ones((2, 5), np.int8), [1, 1]
  for wrong in (np.full((2, 1), 5), 2, [5, 4], np.inf, np.nan):
    with pytest.raises(ValueError, match='num_relevant'):
      metrics.recall_at_k(label_QK, label_Q, 5, num_relevant=wrong)
  few = np.array([5, 250], np.uint8)
  assert metrics.recall_at_k(label_QK, label_Q, 5, num_relevant=few) == 0.51


def test_label_minus_one_does_not_count():
  label_QK = np.array([[1, -1], [-1, -1], [2, 2]])
  assert metrics.precision_at_k(label_QK, [1, -1, 3], 2) == 1 / 4
  assert metrics.distinct_labels(label_QK, 2) == 2 / 3
  assert metrics.count_relevant([-1, -1, 1], [-1, 1]).tolist() == [0, 1]
  values = metrics.summary(label_QK, [1, -1, 3], (1,), num_relevant=[1, 0, 2])
  assert values['r1'] == values['top1'] == 1 / 2
  with pytest.raises(ValueError, match='no query has a label'):
    metrics.top_k_accuracy(label_QK, [-1, -1, -1])


def test_vectors_of_label_minus_one(tmp_path):
  for name, label_N in (('train', [0, -1, 1]), ('val', [-1, 1, 0])):
    np.save(tmp_path / f'{name}-x.npy', ROWS[:3])
    np.save(tmp_path / f'{name}-y.npy', np.array(label_N))
  opened = vectors.open_vectors(str(tmp_path), 'val')
  assert opened.num_classes == 2 and opened.label_N.tolist() == [-1, 1, 0]
  np.save(tmp_path / 'train-y.npy', np.full(3, -1))
  with pytest.raises(ValueError, match='every row has label -1'):
    vectors.open_vectors(str(tmp_path), 'val')


def test_few_shot_and_votes_of_label_minus_one():
  assert few_shot.vote(np.array([[-1, -1, 2], [-1, -1, -1]])).tolist() == [
    2,
    -1,
  ]
  label_M, query_label_Q = np.repeat([0, 1, -1], 4), np.array([0, 1, -1])
  row_MD = np.eye(3, 8, dtype=np.float32)[label_M]
  found = few_shot.few_shot(
    row_MD, label_M, row_MD[[0, 4, 8]], query_label_Q, dims=(8,), shots=2
  )
  assert found.mean == 1


def test_copies_are_hits_by_their_scores():
  score = {'scores_QN': [[0.9, 0.5]], 'true_scores_QK': [[0.9, 0.9]]}
  assert metrics.k_recall([[7, 8]], [[3, 4]]) == 0
  assert metrics.k_recall([[7, 8]], [[3, 4]], **score) == 1 / 2
  assert metrics.k_recall([[7, 7]], [[3, 4]], **score) == 1 / 2


def test_int8_prefixes_where_one_dim_dwarfs_the_rest():
  """As of ada-002: recall@10 is that of the float prefix within 0.01."""
  rng = np.random.default_rng(0)
  center_CD = rng.normal(0, 0.02, (40, 256))
  x_ND = center_CD[rng.integers(0, 40, 2050)]
  x_ND = (x_ND + rng.normal(0, 0.01, x_ND.shape)).astype(np.float32)
  x_ND[:, 7] -= 0.66
  database, query_QD = retrieval.prepare(x_ND[50:]), x_ND[:50]
  true_QK = retrieval.search(query_QD, database, 10).ids_QK
  for dim in (64, 256):
    found = quantized.quantize(database, 'int8', dim).search(query_QD, 10)
    exact = retrieval.search(query_QD, database, 10, dim=dim)
    shares = [metrics.k_recall(x.ids_QK, true_QK) for x in (found, exact)]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)


def test_leave_one_out_of_every_search():
  own = {'leave_one_out': True}
  every = [
    retrieval.search(ROWS, ROWS, 19, **own),
    retrieval.adaptive(
      ROWS, ROWS, 4, shortlist_dim=2, rerank_dim=8, shortlist=19, **own
    ),
    retrieval.rerank(ROWS, ROWS, np.tile(np.arange(20), (20, 1)), 5, **own),
    quantized.quantize(ROWS, 'int8').search(ROWS, 5, **own),
  ]
  for found in every:
    assert not (found.ids_QK == np.arange(20)[:, None]).any()


def test_the_command_warns_and_leaves_out(tmp_path, monkeypatch, capsys):
  np.save(tmp_path / 'x.npy', ROWS)
  argv = ['x', '--dims=8', '--k=3', '--shortlist=5', f'--out={tmp_path}/out']
  argv += [f'--{name}={tmp_path}/x.npy' for name in ('queries', 'database')]
  monkeypatch.setattr(sys, 'argv', argv)
  command.main()
  assert '20 of 20 queries are rows' in capsys.readouterr().err
  monkeypatch.setattr(sys, 'argv', [*argv, '--leave_one_out'])
  command.main()
  assert 'warning' not in capsys.readouterr().err
  ids_QK = np.load(tmp_path / 'out/8.npz')['ids']
  assert not (ids_QK == np.arange(20)[:, None]).any()
