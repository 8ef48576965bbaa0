import dataclasses
import doctest

import chex
import jax
from jax import numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import cost
from mrl_jax.retrieval import cpu
from mrl_jax.retrieval import database as database_lib
from mrl_jax.retrieval import mesh
from mrl_jax.retrieval.cpu import bounds
from mrl_jax.retrieval.cpu import candidates
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu import rerank
from mrl_jax.retrieval.cpu import scan
from mrl_jax.retrieval.cpu import thresholds


def brute_force(query_QD, database_MD, k, dim):
  return cpu.nearest(query_QD[:, :dim], database_MD[:, :dim], k)


WAYS = ['array', 'wide', 'memmap', 'mesh']


@pytest.fixture(params=WAYS)
def arrays(request, tmp_path, monkeypatch):
  """Queries, rows of several ragged blocks, and the database made of them."""
  monkeypatch.setattr(database_lib, 'BLOCK_BYTES', 64 * 32 * 4)
  for name, value in {
    'NARROW': 0 if request.param == 'wide' else 48,
    '_NARROW_ROWS': 16,
    '_ROWS': 64,
    '_QUERIES': 8,
  }.items():
    monkeypatch.setattr(scan, name, value)
  monkeypatch.setattr(thresholds, '_QUERIES', 8)
  monkeypatch.setattr(thresholds, '_SAMPLE', 40)
  monkeypatch.setattr(mesh, '_QUERIES', 8)
  monkeypatch.setattr(mesh.kernels, '_ROWS', 16)
  monkeypatch.setattr(mesh, '_GATHER_BYTES', 1 << 14)
  rng = np.random.default_rng(0)
  query_QD = rng.normal(size=(21, 32)).astype(np.float32)
  database_MD = rng.normal(size=(203, 32)).astype(np.float32)
  if request.param == 'memmap':
    np.save(tmp_path / 'x.npy', database_MD)
    database_MD = np.load(tmp_path / 'x.npy', mmap_mode='r')
  devices = jax.make_mesh((8,), ('rows',), axis_types=(AxisType.Auto,))
  database = retrieval.prepare(
    database_MD, (3, 8), mesh=devices if request.param == 'mesh' else None
  )
  return query_QD, database_MD, database


@pytest.mark.parametrize('k', [1, 10, 100])
@pytest.mark.parametrize('dim', [3, 32])
def test_search_equals_brute_force(arrays, k, dim):
  query_QD, database_MD, database = arrays
  neighbors = retrieval.search(query_QD, database, k, dim=dim)
  ids_QK, scores_QK = brute_force(query_QD, database_MD, k, dim)
  np.testing.assert_array_equal(neighbors.ids_QK, ids_QK)
  np.testing.assert_allclose(neighbors.scores_QK, scores_QK, atol=1e-6)
  assert neighbors.ids_QK.dtype == np.int64
  assert neighbors.scores_QK.dtype == np.float32


def test_search_equals_faiss(arrays):
  faiss = pytest.importorskip('faiss', reason='faiss is not installed')
  *given, database = arrays
  query_QD, database_MD = (np.array(x[:, :8]) for x in given)
  for x in (query_QD, database_MD):
    faiss.normalize_L2(x)
  index = faiss.IndexFlatIP(8)
  index.add(database_MD)
  scores_QK, ids_QK = index.search(query_QD, 10)
  neighbors = retrieval.search(given[0], database, 10, dim=8)
  np.testing.assert_array_equal(neighbors.ids_QK, ids_QK)
  np.testing.assert_allclose(neighbors.scores_QK, scores_QK, atol=1e-6)


def test_all_rows_can_be_asked_for(arrays):
  neighbors = retrieval.search(arrays[0], arrays[2], 203)
  np.testing.assert_array_equal(
    np.sort(neighbors.ids_QK, axis=1), np.tile(np.arange(203), (21, 1))
  )


def test_one_prepared_copy_serves_every_width(arrays):
  query_QD, database_MD, database = arrays
  for dim in (3, 8, 20, None):
    ours = retrieval.search(query_QD, database, 5, dim=dim)
    expected = retrieval.search(query_QD, database_MD, 5, dim=dim)
    np.testing.assert_array_equal(ours.ids_QK, expected.ids_QK)
    np.testing.assert_allclose(ours.scores_QK, expected.scores_QK, rtol=1e-6)
  # The full width is always there; 20 came when it was asked for.
  assert set(database.norms) == {3, 8, 20, 32}


def test_ties_go_to_the_lower_id(arrays):
  query_QD, _, database = arrays
  devices = getattr(database, 'mesh', None)
  database = retrieval.prepare(np.tile(query_QD[:1], (150, 1)), mesh=devices)
  expected = np.tile(np.arange(7), (21, 1))
  neighbors = retrieval.search(query_QD, database, 7)
  np.testing.assert_array_equal(neighbors.ids_QK, expected)
  neighbors = retrieval.adaptive(
    query_QD, database, 7, shortlist_dim=4, rerank_dim=32, shortlist=20
  )
  np.testing.assert_array_equal(neighbors.ids_QK, expected)


def test_adaptive_reranks_the_shortlist(arrays):
  query_QD, database_MD, database = arrays
  neighbors = retrieval.adaptive(
    query_QD, database, 5, shortlist_dim=4, rerank_dim=32, shortlist=40
  )
  shortlists, _ = brute_force(query_QD, database_MD, 40, 4)
  for query_D, ids, row in zip(
    query_QD, neighbors.ids_QK, shortlists, strict=True
  ):
    row = np.sort(row)
    best, _ = brute_force(query_D[None], database_MD[row], 5, 32)
    np.testing.assert_array_equal(ids, row[best[0]])


def test_a_shortlist_of_everything_is_exact(arrays):
  query_QD, _, database = arrays
  exact = retrieval.search(query_QD, database, 9)
  neighbors = retrieval.adaptive(
    query_QD, database, 9, shortlist_dim=2, rerank_dim=32, shortlist=203
  )
  np.testing.assert_array_equal(neighbors.ids_QK, exact.ids_QK)
  np.testing.assert_allclose(neighbors.scores_QK, exact.scores_QK, atol=1e-6)


def test_funnel_is_a_chain_of_reranks(arrays):
  query_QD, database_MD, database = arrays
  neighbors = retrieval.funnel(
    query_QD, database, dims=(4, 8, 32), shortlists=(60, 20, 5)
  )
  kept = retrieval.adaptive(
    query_QD, database, 20, shortlist_dim=4, rerank_dim=8, shortlist=60
  ).ids_QK
  for query_D, ids, row in zip(query_QD, neighbors.ids_QK, kept, strict=True):
    row = np.sort(row)
    best, _ = brute_force(query_D[None], database_MD[row], 5, 32)
    np.testing.assert_array_equal(ids, row[best[0]])


def test_a_funnel_leaves_its_inputs_alone(arrays):
  query_QD, database_MD, database = arrays
  before = query_QD.copy(), np.array(database_MD)
  first = retrieval.funnel(query_QD, database, dims=(4, 32), shortlists=(30, 5))
  copy = first.ids_QK.copy()
  retrieval.funnel(query_QD, database, dims=(2, 8), shortlists=(9, 3))
  chex.assert_trees_all_equal((query_QD, np.array(database_MD)), before)
  np.testing.assert_array_equal(first.ids_QK, copy)


def test_an_all_zero_prefix_scores_zero():
  database_MD = np.array([[0, 0, 1], [1, 0, 0]], np.float32)
  neighbors = retrieval.search(
    np.array([[0, 0, 1], [1, 0, 0]], np.float32), database_MD, 2, dim=2
  )
  np.testing.assert_array_equal(neighbors.scores_QK, [[0, 0], [1, 0]])
  np.testing.assert_array_equal(neighbors.ids_QK, [[0, 1], [1, 0]])


@pytest.mark.parametrize('narrow', [0, 48])
def test_a_sample_that_misleads(monkeypatch, narrow):
  """Nearly all rows reach the threshold, so that some have to be dropped."""
  monkeypatch.setattr(scan, 'NARROW', narrow)
  monkeypatch.setattr(scan, '_ROWS', 64)
  monkeypatch.setattr(thresholds, '_SAMPLE', 40)
  rng = np.random.default_rng(0)
  database_MD = 1 + 0.3 * rng.normal(size=(4000, 4)).astype(np.float32)
  database_MD[np.linspace(0, 3999, 40).astype(int)] *= -1
  query_QD = np.ones((3, 4), np.float32)
  ids_QK, _ = brute_force(query_QD, database_MD, 5, 4)
  found = retrieval.search(query_QD, database_MD, 5)
  np.testing.assert_array_equal(found.ids_QK, ids_QK)


@pytest.fixture(params=['decaying', 'flat', 'behind zeros'])
def shortlists(request, monkeypatch):
  """Queries, a database and ids to rank, some of them twice the same row."""
  monkeypatch.setattr(rerank, '_NARROW', 64)
  monkeypatch.setattr(rerank, '_QUERIES', 8)
  rng = np.random.default_rng(0)
  scale_D = np.ones(64) if request.param == 'flat' else 1 / np.arange(1, 65)
  query_QD, database_MD = (
    (rng.normal(size=(n, 64)) * scale_D).astype(np.float32) for n in (20, 300)
  )
  if request.param == 'behind zeros':
    database_MD[::3, :8] = 0
  database_MD[100:200] = database_MD[:100]
  ids_QK = rng.permuted(np.tile(np.arange(300), (20, 1)), axis=1)[:, :150]
  database = retrieval.prepare(database_MD, (8, 64))
  return request.param, query_QD, database, ids_QK


@pytest.mark.parametrize('metric', ['cosine', 'dot'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_rows_out_of_reach_are_not_read_to_the_end(
  shortlists, metric, dtype, monkeypatch
):
  kind, query_QD, database, ids_QK = shortlists
  database = retrieval.prepare(database.embedding_MD, (8, 64), dtype=dtype)
  rank = lambda: retrieval.rerank(query_QD, database, ids_QK, 5, metric=metric)
  found = rank()
  monkeypatch.setattr(rerank, '_first_width', lambda *_: None)
  whole = rank()
  np.testing.assert_array_equal(found.ids_QK, whole.ids_QK)
  np.testing.assert_array_equal(found.scores_QK, whole.scores_QK)
  assert whole.cost.mflops == 150 * 64 / 1e6
  if kind == 'decaying':
    assert found.cost.mflops < 0.5 * whole.cost.mflops
  if kind == 'flat':
    # After the first queries it is not tried again.
    assert found.cost.mflops == pytest.approx(
      whole.cost.mflops * (1 + 8 / 20 / 8), rel=0.2
    )


def test_dot_products(arrays):
  query_QD, database_MD, database = arrays
  neighbors = retrieval.search(query_QD, database, 9, dim=8, metric='dot')
  score_QM = query_QD[:, :8] @ database_MD[:, :8].T
  expected = np.argsort(-score_QM, axis=1, kind='stable')[:, :9]
  np.testing.assert_array_equal(neighbors.ids_QK, expected)
  again = retrieval.rerank(
    query_QD, database, neighbors.ids_QK[:, ::-1], 4, dim=8, metric='dot'
  )
  np.testing.assert_array_equal(again.ids_QK, expected[:, :4])
  np.testing.assert_allclose(again.scores_QK, neighbors.scores_QK[:, :4], 1e-5)


def test_bfloat16(arrays):
  query_QD, database_MD, database = arrays
  devices = getattr(database, 'mesh', None)
  database = retrieval.prepare(database_MD, dtype='bfloat16', mesh=devices)
  assert database.row_bytes == 64
  rounded_MD = np.asarray(database_MD).astype(jnp.bfloat16)
  expected, _ = brute_force(query_QD, rounded_MD, 1, 32)
  found = retrieval.search(query_QD, database, 5)
  # The mesh rounds the queries, too.
  assert np.mean(found.ids_QK[:, :1] == expected) > 0.9
  again = retrieval.rerank(query_QD, database, found.ids_QK, 1)
  np.testing.assert_array_equal(again.ids_QK, expected)


def test_an_approximate_search_on_a_mesh(arrays):
  query_QD, database_MD, database = arrays
  if isinstance(database, retrieval.Database):
    with pytest.raises(ValueError, match='needs a database prepared on a mesh'):
      retrieval.search(query_QD, database, 5, recall=0.9)
    return
  found = retrieval.search(query_QD, database, 5, recall=0.95)
  exact, _ = brute_force(query_QD, database_MD, 5, 32)
  assert np.mean(found.ids_QK == exact) > 0.9


def test_the_cost_that_was_paid(arrays):
  query_QD, _, database = arrays
  cost = retrieval.search(query_QD, database, 5, dim=8).cost
  assert (cost.mflops, cost.bytes) == (203 * 8 / 1e6, 203 * 8 * 4)
  assert cost.seconds > 0
  cost = retrieval.funnel(
    query_QD, database, dims=(4, 8, 32), shortlists=(60, 20, 5)
  ).cost
  assert cost.mflops == pytest.approx((203 * 4 + 60 * 8 + 20 * 32) / 1e6)
  ids_QK = np.tile(np.arange(7), (21, 1))
  cost = retrieval.rerank(query_QD, database, ids_QK, 5).cost
  assert cost.bytes == pytest.approx(7 * 32 * 4)


@pytest.mark.parametrize(
  'kwargs, match',
  [
    ({'k': 0}, 'k 0'),
    ({'k': 11}, r'k 11: must be in \[1, 10\]'),
    ({'k': 1, 'dim': 0}, '0 is not positive'),
    ({'k': 1, 'dim': 5}, '5 is beyond'),
  ],
)
def test_search_refuses(kwargs, match):
  with pytest.raises(ValueError, match=match):
    retrieval.search(np.ones((2, 4)), np.ones((10, 4)), **kwargs)


@pytest.mark.parametrize(
  'query, database, match',
  [
    (np.ones((2, 3)), np.ones((10, 4)), r'\(2, 3\)'),
    (np.ones(4), np.ones((10, 4)), r'\(4,\)'),
    (np.ones((0, 4)), np.ones((10, 4)), r'\(0, 4\)'),
    (np.ones((2, 4)), np.ones((0, 4)), r'\(0, 4\)'),
    (np.ones((2, 4)), np.ones(4), r'\(4,\)'),
    (np.array([[1.0, np.nan]]), np.ones((3, 2)), 'row 0 of the queries'),
    (np.ones((1, 2)), np.array([[1, 1], [1, np.inf]]), 'row 1 of the database'),
    (np.ones((1, 2)), np.array([[1, 1.0], [0, 0]]), 'row 1 .* is all zero'),
    (np.array([[1, 1.0], [0, 0]]), np.ones((3, 2)), 'row 1 of the queries is'),
    (np.ones((1, 2)), np.full((3, 2), 1e-19), 'row 0 .* length is below 1e-13'),
    (np.ones((1, 2)), np.full((3, 2), 3e19), 'row 0 .* length is no float32'),
    (np.ones((1, 2), '>f4'), np.ones((3, 2), '>f4'), '>f4: .* byte order'),
    (np.ones((1, 2), np.float32), np.ones((3, 2)), 'float32 .* float64'),
    (np.ones((1, 2), int), np.ones((3, 2), int), 'int64: must be floating'),
  ],
)
def test_arrays_refused(query, database, match):
  with pytest.raises(ValueError, match=match):
    retrieval.search(query, database, 1)


@pytest.mark.parametrize(
  'dims, shortlists, match',
  [
    ((2, 4), (5,), 'one is needed for each'),
    ((4, 2), (5, 2), '2 after 4'),
    ((2, 4), (2, 5), 'never grow'),
    ((2, 4), (2, 0), 'positive'),
    ((2, 4), (20, 2), 'k 20'),
  ],
)
def test_funnel_refuses(dims, shortlists, match):
  with pytest.raises(ValueError, match=match):
    retrieval.funnel(
      np.ones((2, 4)), np.ones((10, 4)), dims=dims, shortlists=shortlists
    )


def test_device_arrays_are_taken():
  query_QD = jnp.ones((2, 4))
  neighbors = retrieval.search(query_QD, jnp.eye(4), 1)
  assert isinstance(neighbors.ids_QK, np.ndarray)


@pytest.mark.parametrize('k', [1, 5, 40])
@pytest.mark.parametrize('values', [3, 10_000])
def test_top_k_by_groups(monkeypatch, k, values):
  """Equal to a stable sort, with many ties and with few."""
  monkeypatch.setattr(mesh.kernels, '_GROUP', 4)
  score_QB = np.random.default_rng(0).integers(0, values, (20, 400))
  score_QB = score_QB.astype(np.float32)
  expected = np.argsort(-score_QB, axis=1, kind='stable')[:, :k]
  score_Qk, index_Qk = mesh.kernels.top_k(jnp.asarray(score_QB), k)
  np.testing.assert_array_equal(index_Qk, expected)
  np.testing.assert_array_equal(
    score_Qk, np.take_along_axis(score_QB, expected, 1)
  )


def test_cost_is_the_papers():
  # Exact at 2048 on ImageNet-1K and -4K; 16 -> 2048; the funnels of appendix F.
  assert round(cost.mflops(1_281_167, (2048,)), 1) == 2623.8
  assert round(cost.mflops(4_202_000, (2048,)), 1) == 8605.7
  assert round(cost.mflops(1_281_167, (16, 2048), (200, 10)), 2) == 20.91
  funnel = cost.mflops(
    0, (16, 32, 64, 128, 256, 2048), (200, 100, 50, 25, 10, 10)
  )
  assert round(funnel, 3) == 0.046
  funnel = cost.mflops(0, (8, 16, 32, 64, 128, 2048), (800, 400, 200, 50, 10))
  assert round(funnel, 3) == 0.065


@pytest.fixture(params=['narrow', 'wide'])
def decaying(request, monkeypatch):
  """Queries and rows whose numbers become small, with equal rows among them."""
  monkeypatch.setattr(scan, 'NARROW', 48 if request.param == 'narrow' else 0)
  monkeypatch.setattr(scan, '_ROWS', 64)
  monkeypatch.setattr(thresholds, '_QUERIES', 8)
  monkeypatch.setattr(thresholds, '_WIDE_SAMPLE', 200)
  monkeypatch.setattr(thresholds, '_WIDE', 1)
  # So few rows are all at hand.
  monkeypatch.setattr(exact, '_FETCH', 0)
  monkeypatch.setattr(exact, '_FETCHED', 1)
  rng = np.random.default_rng(0)
  scale_D = 1 / np.arange(1, 65, dtype=np.float32) ** 2
  query_QD = rng.normal(size=(21, 64)).astype(np.float32) * scale_D
  row_MD = rng.normal(size=(2003, 64)).astype(np.float32) * scale_D
  row_MD[700:740] = row_MD[5]
  return query_QD, row_MD


@pytest.mark.parametrize('metric', ['cosine', 'dot'])
@pytest.mark.parametrize('k', [1, 10, 60])
def test_rows_left_out_by_their_bounds(decaying, k, metric):
  """The same rows are found, and most are not read to their end."""
  query_QD, row_MD = decaying
  database = retrieval.prepare(row_MD, (2, 8))
  found = retrieval.search(query_QD, database, k, metric=metric)
  in_full = dataclasses.replace(database, norms={64: database.norms[64]})
  every = retrieval.search(query_QD, in_full, k, metric=metric)
  np.testing.assert_array_equal(found.ids_QK, every.ids_QK)
  np.testing.assert_allclose(found.scores_QK, every.scores_QK, rtol=1e-5)
  assert every.cost.mflops == 2003 * 64 / 1e6
  assert found.cost.mflops < every.cost.mflops / 3
  if metric == 'cosine':
    ids_QK, _ = brute_force(query_QD, row_MD, k, 64)
    np.testing.assert_array_equal(found.ids_QK, ids_QK)


@pytest.mark.parametrize('metric', ['cosine', 'dot'])
@pytest.mark.parametrize(
  'kind', ['steep', 'flat', 'ties', 'zero prefixes', 'one query']
)
def test_the_fast_search_finds_the_rows_of_the_plain_one(
  monkeypatch, kind, metric
):
  # Prefixes are tried whatever they cost.
  for name in ('_FETCH', '_FETCHED'):
    monkeypatch.setattr(exact, name, 0)
  monkeypatch.setattr(thresholds, '_WIDE_SAMPLE', 300)
  monkeypatch.setattr(thresholds, '_WIDE', 1)
  rng = np.random.default_rng(1)
  scale_D = 1 / np.arange(1, 129) ** (0 if kind == 'flat' else 1.5)
  query_QD, row_MD = (
    (rng.normal(size=(count, 128)) * scale_D).astype(np.float32)
    for count in (1 if kind == 'one query' else 30, 3000)
  )
  if metric == 'dot':  # Whole numbers, whose products are not rounded.
    query_QD, row_MD = np.rint(30 * query_QD), np.rint(30 * row_MD)
    query_QD[:, 0], row_MD[:, 0] = 30, 30
  if kind == 'ties':
    row_MD = row_MD[rng.integers(0, 200, 3000)]
  if kind == 'zero prefixes':
    row_MD[::3, :16], row_MD[::3, 20] = 0, 1
    query_QD[::2, :16], query_QD[::2, 20] = 0, 1
  database = retrieval.prepare(row_MD, (2, 8, 16))
  every_QM, score_QM = cpu.nearest(
    query_QD, row_MD, len(row_MD), cosine=metric == 'cosine'
  )
  for k in (1, 10, 100):
    found = retrieval.search(query_QD, database, k, metric=metric)
    if metric == 'dot' or kind == 'ties':
      np.testing.assert_array_equal(found.ids_QK, every_QM[:, :k])
    # Rounding may exchange rows of almost equal cosines.
    place_QK = np.take_along_axis(np.argsort(every_QM), found.ids_QK, axis=1)
    by_id_QK = np.take_along_axis(score_QM, place_QK, axis=1)
    for scores_QK in (found.scores_QK, by_id_QK):
      np.testing.assert_allclose(
        scores_QK, score_QM[:, :k], rtol=1e-6, atol=1e-6
      )


def test_the_worked_example_of_a_bound():
  assert doctest.testmod(bounds) == (0, 4)


def test_bounds_that_leave_out_nothing(arrays, monkeypatch):
  """A flat spectrum, were it scanned by a prefix."""
  query_QD, database_MD, database = arrays
  monkeypatch.setattr(exact, '_FETCH', 0)
  monkeypatch.setattr(exact, '_FETCHED', 0)
  found = retrieval.search(query_QD, database, 10)
  ids_QK, scores_QK = brute_force(query_QD, database_MD, 10, 32)
  np.testing.assert_array_equal(found.ids_QK, ids_QK)
  np.testing.assert_allclose(found.scores_QK, scores_QK, atol=1e-6)


def test_a_query_that_no_bound_helps(decaying, monkeypatch):
  """Its rows would not fit: it is compared with all of them in full."""
  query_QD, row_MD = decaying
  query_QD[3, :8] = 0
  database = retrieval.prepare(row_MD, (2, 8))
  expected, _ = brute_force(query_QD, row_MD, 10, 64)
  for room in (candidates.ROOM, 1000, 100, 1):
    monkeypatch.setattr(candidates, 'ROOM', room)
    monkeypatch.setattr(exact, 'ROOM', room)
    found = retrieval.search(query_QD, database, 10)
    np.testing.assert_array_equal(found.ids_QK, expected)


def test_more_rows_than_there_is_room_for(monkeypatch):
  monkeypatch.setattr(candidates, 'ROOM', 2 * kernels.TILE)
  part = candidates.Candidates(np.full(2, -np.inf, np.float32), None)
  row_MD = np.arange(3 * kernels.TILE, dtype=np.float32)[:, None]
  query_Qd = np.eye(2, kernels.LANE, dtype=np.float32)
  norm_M = np.ones(len(row_MD), np.float32)
  rows = kernels.Rows(row_MD, norm_M, kernels.UNLIMITED)
  tile = rows._replace(vector_BD=row_MD[: kernels.TILE])
  part.add_rows(query_Qd, tile, 7)
  query_N, id_N, score_N = part.hits()
  first = query_N == 0
  np.testing.assert_array_equal(id_N[first], 7 + np.arange(kernels.TILE))
  np.testing.assert_array_equal(score_N[first], row_MD[: kernels.TILE, 0])
  with pytest.raises(candidates.TooManyError):
    part.add_rows(query_Qd, rows, 0)


def test_rows_that_bounds_leave_no_part_of(decaying, tmp_path):
  """On disk, or in another dtype, they are scored in full."""
  query_QD, row_MD = decaying
  np.save(tmp_path / 'x.npy', row_MD)
  on_disk = np.load(tmp_path / 'x.npy', mmap_mode='r')
  expected, _ = brute_force(query_QD, row_MD, 5, 64)
  for rows, dtype in ((on_disk, np.float32), (row_MD, np.float64)):
    database = retrieval.prepare(rows.astype(dtype, copy=False), (2, 8))
    found = retrieval.search(query_QD.astype(dtype), database, 5)
    assert found.cost.mflops == 2003 * 64 / 1e6
    np.testing.assert_array_equal(found.ids_QK, expected)


def test_where_bounds_would_not_pay():
  """Flat spectra are scored in full."""
  rng = np.random.default_rng(0)
  flat = rng.normal(size=(3000, 64)).astype(np.float32)
  found = retrieval.search(flat[:9], retrieval.prepare(flat, (2, 8)), 5)
  assert found.cost.mflops == 3000 * 64 / 1e6
  assert (found.ids_QK[:, 0] == np.arange(9)).all()


def test_rows_of_a_zero_prefix_are_not_lost(monkeypatch):
  """A prefix of zeros bounds nothing: all is behind it."""
  # More than k rows reach the threshold, so that the count misses no lost one.
  monkeypatch.setattr(thresholds, '_SAMPLE', 500)
  monkeypatch.setattr(exact, '_FETCH', 0)
  monkeypatch.setattr(exact, '_FETCHED', 0)
  rng = np.random.default_rng(0)
  scale_D = 1 / np.arange(1, 65, dtype=np.float32) ** 2
  row_MD = rng.normal(size=(2000, 64)).astype(np.float32) * scale_D
  row_MD[77, :8] = 0
  query_QD = row_MD[77:78].copy()
  query_QD[0, 0] = 1e-3
  found = retrieval.search(query_QD, retrieval.prepare(row_MD, (2, 8)), 3)
  np.testing.assert_array_equal(
    found.ids_QK, brute_force(query_QD, row_MD, 3, 64)[0]
  )


def test_wide_rows_are_prepared_for_bounds():
  row_MD = np.ones((3, 512), np.float32)
  assert set(retrieval.prepare(row_MD).norms) == {8, 32, 512}
