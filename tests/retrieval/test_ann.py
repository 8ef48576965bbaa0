"""Faiss indices of prefixes: brute force, on disk, and what is refused."""

import json

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import ann
from mrl_jax.retrieval.ann import files as index_files
from mrl_jax.retrieval.ann import ivf as cells_lib
from mrl_jax.retrieval.ann.index import Index
from mrl_jax.retrieval.prefixes import unit
from mrl_jax.workdir import files

faiss = pytest.importorskip('faiss')

M, Q, D, CELLS = 1200, 40, 32, 16
WIDTHS = {
  'hnsw': (16, 16), 'ivf': (16, 16), 'wider': (8, 32), 'narrower': (32, 8),
  'ivf_pq': (16, 32), 'ivf_opq': (16, 32), 'opq': (16, 16),
  'rabitq': (32, 32), 'ivf_rabitq': (16, 32),
}  # fmt: skip


@pytest.fixture(scope='module', autouse=True)
def one_thread():
  """So that graphs are the same each time."""
  threads = faiss.omp_get_max_threads()
  faiss.omp_set_num_threads(1)
  yield
  faiss.omp_set_num_threads(threads)


@pytest.fixture(scope='module')
def data():
  """Clustered, of mixed dims, all positive: as after a ReLU."""
  random = np.random.default_rng(0)
  centers = random.standard_normal((30, D))
  spread = np.arange(1, D + 1) ** -0.5
  mix = np.eye(D) + 0.2 * random.standard_normal((D, D))
  rows = centers[random.integers(30, size=M + Q)]
  rows = (rows + 0.6 * random.standard_normal(rows.shape)) * spread @ mix
  rows = np.maximum(rows + 0.3, 0).astype(np.float32) * 3
  return rows[M:], retrieval.prepare(rows[:M])


@pytest.fixture(scope='module')
def indices(data):
  def build(name):
    dim, scan_dim = WIDTHS[name]
    kind = name if name in ann.KINDS else 'ivf'
    return ann.build(
      data[1], kind, dim, scan_dim=scan_dim, num_cells=CELLS, code_bytes=8
    )

  return {name: build(name) for name in WIDTHS}


def exact(data, k, dim=None):
  query_QD, database = data
  rows = np.asarray(database.embedding_MD)
  dim = dim or D
  score = unit(query_QD, dim).astype(np.float64) @ unit(rows, dim).T
  return np.argsort(-score, axis=1, kind='stable')[:, :k]


def recall(ids, true_ids):
  pairs = zip(ids, true_ids, strict=True)
  return np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs])


def most(index):
  """Options that make a search as good as the index can."""
  return {'effort': 200} if index.kind == 'hnsw' else (
    {'probes': CELLS} if index.cells else {}
  )  # fmt: skip


@pytest.mark.parametrize('name', WIDTHS)
def test_all_cells_find_what_brute_force_finds(data, indices, name):
  index = indices[name]
  found = index.search(data[0], 10, **most(index))
  codes = index.code_bytes > 0
  floor = dict.fromkeys(('ivf_pq', 'ivf_opq', 'opq'), 0.6) | {
    'hnsw': 0.99, 'rabitq': 0.4, 'ivf_rabitq': 0.5
  }  # fmt: skip
  share = recall(found.ids_QK, exact(data, 10, index.scan_dim))
  assert share >= floor.get(index.kind, 1.0)
  assert (np.diff(found.scores_QK, axis=1) <= 0).all()
  if not codes and share == 1:
    np.testing.assert_array_equal(found.ids_QK, exact(data, 10, index.scan_dim))


@pytest.mark.parametrize('name', WIDTHS)
def test_rerank_reads_the_full_width_copy(data, indices, name):
  index = indices[name]
  found = index.search(data[0], 10, rerank_dim=D, shortlist=100, **most(index))
  # Eight of 32 dims do not find all.
  floor = 0.8 if index.scan_dim == 8 else 0.95
  assert recall(found.ids_QK, exact(data, 10)) >= floor
  rows = unit(np.asarray(data[1].embedding_MD), D)[found.ids_QK]
  score = (rows * unit(data[0], D)[:, None]).sum(-1)
  np.testing.assert_allclose(found.scores_QK, score, atol=1e-6)


@pytest.mark.parametrize('name', ['hnsw', 'ivf'])
@pytest.mark.parametrize('dim', [8, 32])
def test_searched_at_another_width_than_built(data, indices, name, dim):
  found = indices[name].search(data[0], 10, scan_dim=dim, **most(indices[name]))
  assert recall(found.ids_QK, exact(data, 10, dim)) >= 0.98


@pytest.mark.parametrize('name', ['ivf_pq', 'ivf_opq', 'opq'])
def test_codes_at_another_width_are_refused(data, indices, name):
  with pytest.raises(ValueError, match=r'scan_dim 8: .* no other width'):
    indices[name].search(data[0], 10, scan_dim=8)


def test_rotation_is_applied(data, indices):
  # A1: Faiss's apply returns what it rotated, and changes nothing in place.
  index = indices['ivf_opq']
  R = index.rotation_dd
  assert np.abs(R - np.eye(D)).max() > 0.1
  codes = index.faiss_index
  codes.make_direct_map()
  rows = unit(np.asarray(data[1].embedding_MD), D)
  decoded = np.stack([codes.reconstruct(i) for i in range(200)])
  error = np.square(decoded @ R - rows[:200]).sum(1).mean()
  assert error < 0.25 * np.square(decoded - rows[:200]).sum(1).mean()


def test_sliced_centroids_are_normalised_again(data):
  # A2: by the dot product of slices the longer first centroid would win.
  centroids = np.array([[0.8, 0, 0.6], [0.3, 0.05, 0.95]], np.float32)
  cells = cells_lib.Cells(centroids, np.zeros(4, np.int32))
  query = np.array([[6.0, 1.0, 0.0]], np.float32)
  assert (query[:, :2] @ centroids[:, :2].T).argmax() == 0
  assert cells.nearest(query, 1, 2)[0, 0] == 1


def test_code_scores_are_of_the_decoded_rows(data, indices):
  # With what the cell's mean adds, which is at d_s, not d_c.
  index = indices['ivf_opq']
  found = index.search(data[0], 10, probes=CELLS)
  codes = index.faiss_index
  codes.make_direct_map()
  query_Qd = unit(data[0], D) @ index.rotation_dd.T
  for query_d, ids_K, score_K in zip(query_Qd, *found, strict=True):
    decoded = np.stack([codes.reconstruct(int(i)) for i in ids_K])
    np.testing.assert_allclose(decoded @ query_d, score_K, atol=1e-5)


def test_probes_count_in_a_rotated_index(data, indices):
  # A3: nprobe set on an IndexPreTransform reaches nothing.
  one, all_cells = (
    indices['ivf_opq'].search(data[0], 10, probes=probes)
    for probes in (1, CELLS)
  )
  assert all_cells.cost.scanned == M > one.cost.scanned
  true_ids = exact(data, 10)
  assert recall(all_cells.ids_QK, true_ids) > recall(one.ids_QK, true_ids)


def small_cells(database):
  """Four cells: all rows but three, none, three, and none."""
  cell_M = np.zeros(M, np.int32)
  cell_M[[5, 7, 11]] = 2
  rows = unit(np.asarray(database.embedding_MD), 4)
  centroids = np.stack([rows[0], -rows[7], rows[7], -rows[0]])
  cells = cells_lib.Cells(centroids, cell_M)
  return Index('ivf', 4, 4, database, cells)


def test_what_is_not_found_is_not_the_last_row(data, indices, monkeypatch):
  # A5: id -1 as an index is the last row.
  index = indices['ivf']
  ids_QK = np.tile(np.array([7, 5, 11, -1, -1]), (1, 3))[:, :9]
  found = lambda *_: (np.ones((1, 9)), ids_QK, 3)
  monkeypatch.setattr(Index, '_scan', found)
  query = np.asarray(data[1].embedding_MD)[[7]]
  for options in ({}, {'rerank_dim': D, 'shortlist': 9}):
    ids, scores = index.search(query, 9, **options)
    there = ids[0] >= 0
    assert set(ids[0][there]) == {5, 7, 11} and not there[-3:].any()
    assert (scores[0, ~there] == -np.inf).all()
  labels = ann.labels_of(np.arange(M, dtype=np.uint8), ids)
  assert labels[0, -3:].tolist() == [-1, -1, -1]


def test_cells_that_hold_too_few_rows_are_not_the_last(data):
  index = small_cells(data[1])
  row = np.asarray(data[1].embedding_MD)[[7]]
  # The cell of three rows, then the one of all others.
  found = index.search(row, 5)
  assert (found.ids_QK >= 0).all() and found.ids_QK[0, 0] == 7
  assert found.cost.scanned == M and (found.scores_QK > -np.inf).all()
  assert index.search(row, 3).cost.scanned == 3
  # The nearest cell is empty.
  found = index.search(-row, 2)
  assert found.cost.scanned >= 3 and (found.ids_QK >= 0).all()
  assert index.search(-row, M).ids_QK.min() == 0
  found = index.search(row, M - 1, leave_one_out=[7])
  assert set(found.ids_QK[0]) == {*range(M)} - {7}


@pytest.mark.parametrize('kind', ['ivf', 'ivf_pq'])
def test_more_cells_than_distinct_rows(kind):
  distinct = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
  rows = np.tile(distinct, (60, 1))
  index = ann.build(rows, kind, 8, num_cells=40, code_bytes=2)
  found = index.search(distinct, 61)
  assert (found.ids_QK >= 0).all()
  if kind == 'ivf':
    np.testing.assert_array_equal(found.ids_QK[:, 0], np.arange(5))


def test_an_empty_cell_keeps_its_number(data):
  # A8: dropped, every cell after it would be another's.
  index = small_cells(data[1])
  assert index.cells.size_C.tolist() == [M - 3, 0, 3, 0]


@pytest.mark.parametrize('name', ['hnsw', 'ivf', 'opq'])
def test_lengths_do_not_count(data, indices, name):
  # A6: rows that were not normalised favour long ones.
  random = np.random.default_rng(1)
  length = random.uniform(0.1, 9, (M, 1)).astype(np.float32)
  dim, scan_dim = WIDTHS[name]
  index = ann.build(
    np.asarray(data[1].embedding_MD) * length, name, dim,
    num_cells=CELLS, code_bytes=8,
  )  # fmt: skip
  for other, scale in ((indices[name], 1), (index, 7)):
    found = other.search(data[0] * scale, 10, **most(other))
    floor = 0.6 if name == 'opq' else 0.99
    assert recall(found.ids_QK, exact(data, 10, scan_dim)) >= floor


def test_equal_rows_come_in_the_order_of_ids(data):
  rows = np.tile(np.asarray(data[1].embedding_MD)[:50], (4, 1))
  index = ann.build(rows, 'ivf', 16, num_cells=4)
  ids = index.search(rows[:50], 4, probes=4).ids_QK
  expected = np.arange(50)[:, None] + np.arange(0, 200, 50)[None]
  np.testing.assert_array_equal(ids, expected)


def test_cost_is_the_papers_formula(data, indices):
  index = indices['wider']
  paid = index.search(data[0], 5, probes=CELLS, rerank_dim=D, shortlist=50).cost
  total = (8 * CELLS + 32 * M + 50 * D) / 1e6
  assert paid.mflops == pytest.approx(total)
  # FACTS: 1.285263 of ImageNet-1K, d_c = 16, N_C = 256, d_s = 256, one probe.
  assert pytest.approx(1.285263) == (16 * 256 + 256 * 1281167 / 256) / 1e6
  graph = indices['hnsw']
  paid = graph.search(data[0], 5, effort=16).cost
  assert 16 < paid.scanned < M
  assert paid.mflops == pytest.approx(paid.scanned * 16 / 1e6)


def test_bytes_a_row(indices):
  assert indices['wider'].row_bytes() == 12 + 4 * 32
  assert indices['ivf_opq'].row_bytes() == 12 + 8
  assert indices['opq'].row_bytes() == 8
  assert indices['hnsw'].row_bytes() > 4 * 16 + 4 * 64


@pytest.mark.parametrize('name', WIDTHS)
def test_loaded_searches_as_saved(data, indices, name, tmp_path):
  index = indices[name]
  index_files.save(index, tmp_path / 'index')
  # A second time over the first.
  index_files.save(index, tmp_path / 'index')
  assert [p.name for p in tmp_path.iterdir()] == ['index']
  loaded = index_files.load(tmp_path / 'index', data[1])
  for a, b in zip(
    index.search(data[0], 10), loaded.search(data[0], 10), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert json.loads((tmp_path / 'index/manifest.json').read_text())['rows'] == M


def test_an_interrupted_save_leaves_the_old_index(
  data, indices, tmp_path, monkeypatch
):
  index_files.save(indices['ivf'], tmp_path / 'index')

  def fail(*args, **options):
    raise KeyboardInterrupt

  monkeypatch.setattr(np, 'save', fail)
  for folder in ('index', 'new'):
    with pytest.raises(KeyboardInterrupt):
      index_files.save(indices['wider'], tmp_path / folder)
  assert [p.name for p in tmp_path.iterdir()] == ['index']
  assert index_files.load(tmp_path / 'index', data[1]).dim == 16


def test_a_faiss_file_of_another_index_is_refused(data, indices, tmp_path):
  index_files.save(indices['ivf_opq'], tmp_path / 'index')
  other = ann.build(data[1], 'ivf_pq', 16, num_cells=CELLS, code_bytes=8)
  faiss.write_index(other.faiss_index, str(tmp_path / 'index/index.faiss'))
  with pytest.raises(ValueError, match=r'index\.faiss has .* bytes instead of'):
    index_files.load(tmp_path / 'index', data[1])


def test_another_database_is_refused(data, indices, tmp_path):
  index_files.save(indices['ivf'], tmp_path / 'index')
  rows = np.asarray(data[1].embedding_MD)
  for other in (rows[:-1], rows[:, :-1], rows[::-1]):
    with pytest.raises(ValueError, match='was built on 1200 rows of width 32'):
      index_files.load(tmp_path / 'index', other)


def test_damaged_files_are_refused(data, indices, tmp_path):
  with pytest.raises(ValueError, match='no manifest'):
    index_files.load(tmp_path, data[1])
  with pytest.raises(ValueError, match='holds no index'):
    index_files.save(indices['ivf'], tmp_path)
  index_files.save(indices['ivf_opq'], tmp_path / 'index')
  (tmp_path / 'index/index.faiss').write_bytes(b'half')
  with pytest.raises(ValueError, match=r'index\.faiss has 4 bytes instead'):
    index_files.load(tmp_path / 'index', data[1])


@pytest.mark.parametrize('name', ['hnsw', 'ivf', 'ivf_opq', 'opq', 'rabitq'])
def test_a_flipped_bit_is_noticed(data, indices, tmp_path, name):
  folder = tmp_path / 'index'
  index_files.save(indices[name], folder)
  rng = np.random.default_rng(0)
  for path in folder.iterdir():
    whole = path.read_bytes()
    for place in rng.integers(0, 8 * len(whole), 20):
      damaged = bytearray(whole)
      damaged[place // 8] ^= 1 << place % 8
      path.write_bytes(damaged)
      with pytest.raises(ValueError, match='build the index again') as error:
        index_files.load(folder, data[1])
      assert path.name in str(error.value) and '\n' not in str(error.value)
    path.write_bytes(whole)
  assert index_files.load(folder, data[1]).kind == indices[name].kind


@pytest.mark.parametrize('name', ['hnsw', 'ivf'])
def test_faiss_gets_nothing_unchecked(data, indices, tmp_path, name):
  folder = tmp_path / 'index'
  index_files.save(indices[name], folder)
  record = json.loads((folder / 'manifest.json').read_text())
  del record['files'], record['checksum']
  files.write_json(folder / 'manifest.json', record)
  with (
    pytest.warns(UserWarning, match='without checksums'),
    pytest.raises(ValueError, match='can end the process: build the index'),
  ):
    index_files.load(folder, data[1])


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    (('lsh', 16), "kind 'lsh'"),
    (('ivf', 64), '64 is beyond'),
    (('hnsw', 16, {'scan_dim': 8}), 'scan_dim 8'),
    (('ivf', 16, {'num_cells': M + 1}), 'num_cells 1201'),
    (('opq', 16, {'code_bytes': 5}), 'code_bytes 5'),
  ],
)
def test_bad_builds_are_refused(data, arguments, match):
  kind, dim, *options = arguments
  with pytest.raises(ValueError, match=match):
    ann.build(data[1], kind, dim, **(options[0] if options else {}))


@pytest.mark.parametrize(
  ('name', 'options', 'match'),
  [
    ('ivf', {'probes': 17}, 'probes 17'),
    ('ivf', {'probes': 0}, 'probes 0'),
    ('ivf', {'coarse_dim': 32}, '32 is beyond'),
    ('ivf', {'scan_dim': 33}, '33 is beyond'),
    ('ivf', {'effort': 9}, 'effort 9'),
    ('hnsw', {'effort': 0}, 'effort 0'),
    ('ivf', {'rerank_dim': 32}, 'both or neither'),
    ('ivf', {'rerank_dim': 32, 'shortlist': 4}, 'shortlist of 4'),
    ('ivf', {'rerank_dim': 32, 'shortlist': M + 1}, 'shortlist of 1201'),
    ('opq', {'probes': 2}, 'no cells'),
  ],
)
def test_bad_searches_are_refused(data, indices, name, options, match):
  with pytest.raises(ValueError, match=match):
    indices[name].search(data[0], 5, **options)


def test_bad_rows_are_refused(data, indices):
  query = data[0].copy()
  query[3, 2] = np.nan
  with pytest.raises(ValueError, match='row 3'):
    indices['ivf'].search(query, 5)
  with pytest.raises(ValueError, match='width 32'):
    indices['ivf'].search(data[0][:, :8], 5)
  few = np.asarray(data[1].embedding_MD)[:100]
  with pytest.raises(ValueError, match='100 rows: codes need 256'):
    ann.build(few, 'opq', 16, code_bytes=8)


def test_cells_can_be_looked_up_at_fewer_dims(data, indices):
  full, less = (
    indices['narrower'].search(data[0], 10, coarse_dim=dim, probes=4)
    for dim in (32, 8)
  )
  assert less.cost.mflops < full.cost.mflops
  assert recall(less.ids_QK, exact(data, 10, 8)) >= 0.5
