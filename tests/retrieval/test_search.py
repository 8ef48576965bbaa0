import doctest
import os

import chex
import jax
from jax import numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import cost
from mrl_jax.retrieval import cpu
from mrl_jax.retrieval import mesh
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval.cpu import best
from mrl_jax.retrieval.cpu import bounds
from mrl_jax.retrieval.cpu import choice
from mrl_jax.retrieval.cpu import exact
from mrl_jax.retrieval.cpu import kernels
from mrl_jax.retrieval.cpu import keys
from mrl_jax.retrieval.cpu import scores
from mrl_jax.retrieval.cpu import stored
from mrl_jax.retrieval.cpu import threads
from mrl_jax.retrieval.cpu import tiles


def brute_force(query_QD, database_MD, k, dim):
  return cpu.nearest(query_QD[:, :dim], database_MD[:, :dim], k)


WAYS = ['tiles', 'no tiles', 'memmap', 'mesh']


@pytest.fixture(params=WAYS)
def arrays(request, tmp_path, monkeypatch):
  """Queries, rows of several ragged blocks, and the database made of them."""
  monkeypatch.setattr(stored, 'BLOCK_BYTES', 64 * 32 * 4)
  if request.param == 'no tiles':
    monkeypatch.setattr(stored, 'TILE_BYTES', 0)
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


@pytest.fixture(params=['decaying', 'flat', 'behind zeros'])
def shortlists(request):
  """Queries, a database and ids to rank, some of them twice the same row."""
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
def test_rows_out_of_reach_are_not_read_to_the_end(shortlists, metric, dtype):
  kind, query_QD, database, ids_QK = shortlists
  database = retrieval.prepare(database.embedding_MD, (8, 64), dtype=dtype)
  rank = lambda: retrieval.rerank(query_QD, database, ids_QK, 5, metric=metric)
  found = rank()
  whole = 150 * 64 / 1e6
  assert found.cost.mflops < (0.8 if kind == 'decaying' else 1.001) * whole
  database.tails.clear()
  database.views.clear()
  in_full = rank()
  np.testing.assert_array_equal(found.ids_QK, in_full.ids_QK)
  np.testing.assert_array_equal(found.scores_QK, in_full.scores_QK)
  assert in_full.cost.mflops == whole


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


KINDS = ['steep', 'flat', 'ties', 'zero prefixes', 'classes', 'one row']


def embeddings(kind, queries, rows=1500, width=130):
  rng = np.random.default_rng(1)
  scale_D = 1 / np.arange(1, width + 1) ** (0 if kind == 'flat' else 1.5)
  query_QD, row_MD = (
    (rng.normal(size=(count, width)) * scale_D).astype(np.float32)
    for count in (queries, rows)
  )
  if kind == 'classes':
    center_CD = rng.normal(size=(20, width)).astype(np.float32)
    query_QD += center_CD[rng.integers(0, 20, queries)]
    row_MD += center_CD[rng.integers(0, 20, rows)]
  if kind == 'ties':
    row_MD = row_MD[rng.integers(0, 200, rows)]
  if kind == 'one row':
    row_MD[:] = row_MD[0]
  if kind == 'zero prefixes':
    row_MD[::3, :40], row_MD[::3, 50] = 0, 1
    query_QD[::2, :40], query_QD[::2, 50] = 0, 1
  return query_QD, row_MD


@pytest.mark.parametrize('metric', ['cosine', 'dot'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('level', [None, 1, 2, 3, 4])
def test_every_way_finds_the_rows_of_the_plain_one(
  monkeypatch, kind, metric, level
):
  monkeypatch.setattr(choice, 'LITTLE', 0)
  monkeypatch.setattr(threads, 'WORK', 0)
  if level is not None:
    monkeypatch.setattr(choice, 'level', lambda *_: level)
  query_QD, row_MD = embeddings(kind, 7)
  if metric == 'dot':  # Whole numbers, whose products are not rounded.
    query_QD, row_MD = np.rint(30 * query_QD), np.rint(30 * row_MD)
    query_QD[:, 0], row_MD[:, 0] = 30, 30
  database = retrieval.prepare(row_MD, (2, 8, 16))
  every_QM, score_QM = cpu.nearest(
    query_QD, row_MD, len(row_MD), cosine=metric == 'cosine'
  )
  for k in (1, 5, 100):
    found = retrieval.search(query_QD, database, k, metric=metric)
    if metric == 'dot' or kind in ('ties', 'one row'):
      np.testing.assert_array_equal(found.ids_QK, every_QM[:, :k])
    # Rounding may exchange rows of almost equal cosines.
    place_QK = np.take_along_axis(np.argsort(every_QM), found.ids_QK, axis=1)
    by_id_QK = np.take_along_axis(score_QM, place_QK, axis=1)
    for scores_QK in (found.scores_QK, by_id_QK):
      np.testing.assert_allclose(
        scores_QK, score_QM[:, :k], rtol=1e-6, atol=2e-6
      )
    # The same rows, one query at a time.
    if kind != 'flat' or k == 1:
      alone = retrieval.search(query_QD[3:4], database, k, metric=metric)
      np.testing.assert_array_equal(alone.ids_QK, found.ids_QK[3:4])


@pytest.mark.parametrize('kind', ['steep', 'flat', 'classes', 'ties'])
@pytest.mark.parametrize('level', [None, 1, 2, 3])
def test_few_queries_are_searched_one_by_one(monkeypatch, kind, level):
  """Rows are ruled out by 32, 64 or 128 dims of the tiles, or in full."""
  monkeypatch.setattr(choice, 'LITTLE', 0)
  monkeypatch.setattr(threads, 'WORK', 0)
  query_QD, row_MD = embeddings(kind, 3, rows=700, width=1024)
  database = retrieval.prepare(row_MD)
  assert database.tile_NWT.shape == (2, 128, kernels.TILE)
  for queries in (1, 3):
    unit_QD = prefixes.unit(query_QD[:queries], 1024)
    found = exact.nearest(unit_QD, database, 10, cosine=True, level=level)
    ids_QK, score_QK = brute_force(query_QD[:queries], row_MD, 10, 1024)
    np.testing.assert_array_equal(found.ids_QK, ids_QK)
    np.testing.assert_allclose(found.score_QK, score_QK, atol=1e-6)
  if level is None:
    read = found.products / (700 * 1024)
    assert read > 1 if kind == 'flat' else read < 0.6


@pytest.mark.parametrize('queries', [1, 6])
@pytest.mark.parametrize('kind', ['flat', 'ties', 'one row'])
def test_little_is_one_product(kind, queries):
  query_QD, row_MD = embeddings(kind, queries)
  for k in (1, 300, 1500):
    found = retrieval.search(query_QD, row_MD, k)
    ids_QK, scores_QK = brute_force(query_QD, row_MD, k, 130)
    np.testing.assert_allclose(found.scores_QK, scores_QK, atol=1e-6)
    if kind != 'flat':
      np.testing.assert_array_equal(found.ids_QK, ids_QK)
    assert (np.diff(np.sort(found.ids_QK), axis=1) > 0).all()


def test_the_worked_example_of_a_bound():
  assert doctest.testmod(bounds) == (0, 5)


def test_rows_are_left_out_by_their_bounds(monkeypatch):
  monkeypatch.setattr(choice, 'LITTLE', 0)
  query_QD, row_MD = embeddings('steep', 3)
  found = retrieval.search(query_QD, retrieval.prepare(row_MD), 5)
  assert found.cost.mflops < 0.4 * 1500 * 130 / 1e6


def test_rows_on_disk_or_of_another_dtype_are_scored_in_full(tmp_path):
  query_QD, row_MD = embeddings('steep', 9)
  np.save(tmp_path / 'x.npy', row_MD)
  on_disk = np.load(tmp_path / 'x.npy', mmap_mode='r')
  expected, _ = brute_force(query_QD, row_MD, 5, 130)
  for rows, dtype in ((on_disk, np.float32), (row_MD, np.float64)):
    database = retrieval.prepare(rows.astype(dtype, copy=False), (2, 8))
    found = retrieval.search(query_QD.astype(dtype), database, 5)
    assert found.cost.mflops == 1500 * 130 / 1e6
    np.testing.assert_array_equal(found.ids_QK, expected)


def test_blocks_of_a_file_are_not_bounded_by_other_rows(tmp_path, monkeypatch):
  """Tails of the first block, which are short, would rule out later rows."""
  monkeypatch.setattr(exact, '_ROWS', 64)
  query_QD, row_MD = embeddings('flat', 9)
  row_MD[:600, 32:] *= 1e-3
  np.save(tmp_path / 'x.npy', row_MD)
  on_disk = np.load(tmp_path / 'x.npy', mmap_mode='r')
  expected, _ = brute_force(query_QD, row_MD, 5, 130)
  for rows, dtype in ((on_disk, np.float32), (row_MD, np.float64)):
    database = retrieval.prepare(rows.astype(dtype, copy=False))
    found = retrieval.search(query_QD.astype(dtype), database, 5)
    np.testing.assert_array_equal(found.ids_QK, expected)


@pytest.mark.parametrize('step', [1, 2])
def test_thresholds_of_a_sample_lose_no_row(monkeypatch, step):
  """Rows of the sample are all near, or far: too few rows reach it, or most."""
  monkeypatch.setattr(tiles, '_SAMPLE', 512)
  query_QD, row_MD = embeddings('flat', 40, rows=6000, width=12)
  N, stride = -(-6000 // kernels.TILE), None
  for near in (True, False):
    x = row_MD.copy()
    stride = -(-N // step) * kernels.TILE // 512
    ids = np.arange(N)[::step, None] * kernels.TILE
    ids = (ids + np.arange(0, kernels.TILE, stride)).ravel()
    x[ids[ids < 6000]] = query_QD[0] * (1 if near else -1)
    database = retrieval.prepare(x)
    queries, rows = stored.queries(query_QD), stored.rows(database, 12, False)
    found = tiles.in_tiles(queries, database.tile_NWT, rows, 50, step)
    kept = np.arange(6000) // kernels.TILE % step == 0
    score_QM = np.where(kept, query_QD @ x.T, -np.inf)
    best_QK = -np.sort(-score_QM, axis=1)[:, :50]
    np.testing.assert_allclose(found.score_QK, best_QK, rtol=1e-5, atol=1e-5)
    by_id_QK = np.take_along_axis(score_QM, found.ids_QK, 1)
    np.testing.assert_allclose(by_id_QK, best_QK, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('near', [True, False])
def test_thresholds_of_a_full_product_lose_no_row(near):
  """Rows of the sample are all near, so that too few reach it, or far."""
  query_QD, row_MD = embeddings('flat', 9, rows=6000, width=40)
  ids_S = np.linspace(0, 5999, 1024).astype(int)
  row_MD[ids_S] = query_QD[0] * (1 if near else -1)
  database = retrieval.prepare(row_MD)
  unit_QD = prefixes.unit(query_QD, 40)
  found = exact.nearest(unit_QD, database, 50, cosine=True, level=-1)
  ids_QK, score_QK = brute_force(query_QD, row_MD, 50, 40)
  np.testing.assert_allclose(found.score_QK, score_QK, atol=1e-6)
  np.testing.assert_array_equal(found.ids_QK[0], ids_QK[0])


def test_one_narrow_query_scores_as_many_do():
  query_QD, row_MD = embeddings('ties', 40, rows=6000, width=64)
  database = retrieval.prepare(row_MD)
  for dim in (5, 16, 32):
    many = retrieval.search(query_QD, database, 30, dim=dim)
    for q in range(3):
      one = retrieval.search(query_QD[q : q + 1], database, 30, dim=dim)
      np.testing.assert_array_equal(one.ids_QK[0], many.ids_QK[q])
      np.testing.assert_array_equal(one.scores_QK[0], many.scores_QK[q])


def test_cached_loops_notice_a_change_in_another_file():
  """Numba itself looks only at the file of a loop."""
  own, folder = scores.rank._cache._cache_file._source_stamp
  assert own
  assert {x[0] for x in folder} >= {'keys.py', 'kernels.py', 'scores.py'}


@pytest.mark.parametrize('rows', [257, 512, 513, 1025])
def test_few_tiles(monkeypatch, rows):
  """Of one tile, or of three, every second is looked at for thresholds."""
  monkeypatch.setattr(choice, 'LITTLE', 0)
  query_QD, row_MD = embeddings('steep', 9, rows, 64)
  found = retrieval.search(query_QD, row_MD, 1)
  expected, _ = brute_force(query_QD, row_MD, 1, 64)
  np.testing.assert_array_equal(found.ids_QK, expected)


def test_where_rows_are_too_few_there_is_none():
  """A shortlist has no id that is not one of a row, and a rerank skips -1."""
  query_QD, row_MD = embeddings('steep', 9, 50, 64)
  queries, database = stored.queries(query_QD), retrieval.prepare(row_MD)
  search = best.Search(queries, 5, 0)
  keys.add(np.ones((9, 3), np.float32), np.tile(np.arange(3), (9, 1)),
           np.zeros((9, 3), bool), search.parts[0])  # fmt: skip
  found = search.found()
  np.testing.assert_array_equal(found.ids_QK, [[0, 1, 2, -1, -1]] * 9)
  np.testing.assert_array_equal(found.score_QK[:, 3:], -np.inf)
  again = exact.rescore(query_QD, database, found.ids_QK, 4, cosine=True)
  assert (np.sort(again.ids_QK) == [-1, 0, 1, 2]).all()


def test_where_bounds_would_not_pay():
  """Flat spectra are scored in full."""
  query_QD, row_MD = embeddings('flat', 9, rows=5000)
  found = retrieval.search(query_QD, retrieval.prepare(row_MD, (2, 8)), 5)
  assert found.cost.mflops == pytest.approx(5000 * 130 / 1e6)


def test_a_file_that_was_changed_is_refused(tmp_path):
  query_QD, row_MD = embeddings('steep', 2, rows=50)
  np.save(tmp_path / 'x.npy', row_MD)
  on_disk = np.load(tmp_path / 'x.npy', mmap_mode='r')
  database = retrieval.prepare(on_disk)
  retrieval.search(query_QD, database, 5)
  os.utime(tmp_path / 'x.npy', ns=(1, 1))
  for call in (
    lambda: retrieval.search(query_QD, database, 5),
    lambda: retrieval.rerank(query_QD, database, np.zeros((2, 3), int), 1),
  ):
    with pytest.raises(ValueError, match=r'x\.npy was changed since'):
      call()
  retrieval.search(query_QD, retrieval.prepare(on_disk), 5)


def test_nothing_is_compiled_for_a_shape():
  """One compiled form of each loop, whatever is searched."""
  for rows, width, queries, k in ((700, 300, 1, 3), (90, 40, 33, 90)):
    query_QD, row_MD = embeddings('steep', queries, rows, width)
    for x in (row_MD, row_MD.astype(np.float64), np.asfortranarray(row_MD)):
      x.flags.writeable = width == 300
      database = retrieval.prepare(x)
      for dim in (8, width):
        some = query_QD.astype(x.dtype)
        found = retrieval.search(some, database, k, dim=dim)
        retrieval.rerank(some, database, found.ids_QK, 1)
  loops = [getattr(kernels, x) for x in ('scan_tiles', 'sift')]
  for loop in (
    *loops,
    scores.ranked,
    bounds.squares,
    keys.add,
    keys.unpack,
  ):
    assert len(loop.signatures) <= 1
