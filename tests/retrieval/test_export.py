"""Embeddings in Qdrant, Faiss and Parquet, whole or not at all."""

import json
import sys

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval.export import __main__ as export_lib
from mrl_jax.retrieval.export import qdrant

DIMS = (2, 4, 8)


@pytest.fixture(scope='module')
def rows():
  """Embeddings of several blocks, none of unit length, and their labels."""
  rng = np.random.default_rng(0)
  return (3 * rng.normal(size=(70, 8))).astype(np.float32), rng.integers(
    0, 4, 70
  )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(export_lib, '_BLOCK_BYTES', 32 * 30)
  monkeypatch.setattr(qdrant, '_BATCH', 20)


def unit(row_ND, dim):
  prefix_Nd = row_ND[:, :dim]
  return prefix_Nd / np.linalg.norm(prefix_Nd, axis=1, keepdims=True)


def fill(client, name, row_ND, label_N):
  blocks = export_lib.unit_prefixes(row_ND, DIMS)
  qdrant.fill(client, name, DIMS, blocks, label_N)


def test_qdrants_nested_query_is_our_funnel(rows, tmp_path):
  qdrant_client = pytest.importorskip('qdrant_client')
  row_ND, label_N = rows
  out = tmp_path / 'q'
  export_lib.export(row_ND, out, to='qdrant', dims=DIMS, label_N=label_N)
  query_QD = np.random.default_rng(1).normal(size=(9, 8)).astype(np.float32)
  client = qdrant_client.QdrantClient(path=str(out))
  for dims, shortlists in (
    ((8,), (5,)), ((2, 8), (20, 5)), (DIMS, (30, 10, 5))
  ):  # fmt: skip
    ours = retrieval.funnel(query_QD, row_ND, dims=dims, shortlists=shortlists)
    for query_D, ids_K, score_K in zip(query_QD, *ours[:2], strict=True):
      found = client.query_points(
        'embeddings', **qdrant.funnel_query(query_D, dims, shortlists)
      ).points
      assert [point.id for point in found] == ids_K.tolist()
      np.testing.assert_allclose(
        [point.score for point in found], score_K, atol=1e-5
      )
      assert [p.payload['label'] for p in found] == label_N[ids_K].tolist()
  client.close()


def test_faiss_files_are_of_unit_prefixes(rows, tmp_path):
  faiss = pytest.importorskip('faiss')
  row_ND = rows[0].copy()
  # Stays so, since the row is not all zero.
  row_ND[40, :2] = 0
  export_lib.export(row_ND, tmp_path / 'f', to='faiss', dims=DIMS)
  for dim in DIMS:
    index = faiss.read_index(str(tmp_path / 'f' / f'{dim}.faiss'))
    stored_Nd = index.reconstruct_n(0, index.ntotal)
    assert (stored_Nd[40, :2] == 0).all()
    stored_Nd, expected_Nd = (
      np.delete(x, 40, axis=0) for x in (stored_Nd, row_ND)
    )
    np.testing.assert_allclose(stored_Nd, unit(expected_Nd, dim), atol=1e-6)


def test_parquet_has_ids_labels_and_unit_prefixes(rows, tmp_path):
  parquet = pytest.importorskip('pyarrow.parquet')
  row_ND, label_N = rows
  out = tmp_path / 'p'
  export_lib.export(row_ND, out, to='parquet', dims=DIMS, label_N=label_N)
  table = parquet.read_table(out / 'rows.parquet')
  assert table['id'].to_pylist() == list(range(70))
  assert table['label'].to_pylist() == label_N.tolist()
  for dim in DIMS:
    stored_Nd = np.array(table[f'embedding_{dim}'].to_pylist())
    np.testing.assert_allclose(stored_Nd, unit(row_ND, dim), atol=1e-6)
  manifest = json.loads((out / 'export.json').read_text())
  assert (manifest['count'], manifest['dims']) == (70, [2, 4, 8])


@pytest.mark.parametrize(
  ('to', 'module'),
  [('qdrant', 'qdrant_client'), ('faiss', 'faiss'), ('parquet', 'pyarrow')],
)
def test_an_interrupted_export_leaves_nothing(rows, tmp_path, to, module):
  pytest.importorskip(module)
  row_ND = rows[0].copy()
  out = tmp_path / 'x'
  # Found in the last block, when others are written.
  row_ND[65] = np.nan
  with pytest.raises(ValueError, match='row 65'):
    export_lib.export(row_ND, out, to=to, dims=DIMS)
  assert not list(tmp_path.iterdir())
  export_lib.export(rows[0], out, to=to, dims=DIMS)
  before = sorted(path.name for path in out.rglob('*'))
  with pytest.raises(ValueError, match='row 65'):
    export_lib.export(row_ND, out, to=to, dims=DIMS)
  assert sorted(path.name for path in out.rglob('*')) == before
  assert list(tmp_path.iterdir()) == [out]


def test_a_servers_collection_shows_when_it_is_whole(rows):
  client = pytest.importorskip('qdrant_client').QdrantClient(':memory:')
  with (
    pytest.raises(KeyboardInterrupt),
    qdrant.publishing(client, 'mine') as hidden,
  ):
    fill(client, hidden, *rows)
    assert not client.collection_exists('mine')
    raise KeyboardInterrupt
  assert not client.get_collections().collections
  with qdrant.publishing(client, 'mine') as hidden:
    fill(client, hidden, *rows)
  assert client.count('mine').count == 70
  with (
    pytest.raises(ValueError, match="'mine' is there already"),
    qdrant.publishing(client, 'mine'),
  ):
    pass
  assert client.count('mine').count == 70
  client.close()


def test_a_folder_that_is_no_export_is_kept(rows, tmp_path):
  (tmp_path / 'thesis.tex').write_text('all of it')
  with pytest.raises(ValueError, match='is no export'):
    export_lib.export(rows[0], tmp_path, to='parquet', dims=DIMS)
  assert (tmp_path / 'thesis.tex').exists()


@pytest.mark.parametrize('row', [3, 64])
def test_a_row_that_is_all_zero_is_told(rows, row):
  row_ND = rows[0].copy()
  row_ND[row] = 0
  with pytest.raises(ValueError, match=f'row {row}: its first 8 dims'):
    list(export_lib.unit_prefixes(row_ND, DIMS))


def test_a_prefix_that_is_all_zero_scores_zero(rows, tmp_path):
  qdrant_client = pytest.importorskip('qdrant_client')
  row_ND = rows[0].copy()
  row_ND[64, :2] = 0
  export_lib.export(row_ND, tmp_path / 'q', to='qdrant', dims=DIMS)
  client = qdrant_client.QdrantClient(path=str(tmp_path / 'q'))
  query = qdrant.funnel_query(row_ND[0], (2,), (70,))
  scores = {
    p.id: p.score for p in client.query_points('embeddings', **query).points
  }
  client.close()
  assert scores[64] == 0
  assert min(scores.values()) < 0


def test_a_server_that_does_not_answer(rows):
  pytest.importorskip('qdrant_client')
  # Port 1 is nobody's.
  with pytest.raises(ValueError, match=r'127.0.0.1:1: .*refused'):
    export_lib.to_server(rows[0], 'http://127.0.0.1:1', dims=DIMS)


@pytest.mark.parametrize(
  ('kwargs', 'match'),
  [
    ({'dims': (4, 2)}, r'\(4, 2\)'),
    ({'dims': (2, 9)}, '9'),
    ({'label_N': np.zeros(69, int)}, r'\(69,\)'),
    ({'label_N': np.zeros(70)}, 'float64'),
    ({'to': 'faiss', 'label_N': np.zeros(70, int)}, 'holds none'),
    ({'to': 'csv'}, "'csv'"),
  ],
)
def test_refuses(rows, tmp_path, kwargs, match):
  kwargs = {'to': 'parquet', 'dims': DIMS} | kwargs
  with pytest.raises(ValueError, match=match):
    export_lib.export(rows[0], tmp_path / 'x', **kwargs)


@pytest.mark.parametrize(
  ('dims', 'shortlists', 'match'),
  [
    ((2, 8), (5, 6), 'never grow'),
    ((2, 8), (5, 0), 'positive'),
    ((2, 8), (5,), 'one is needed'),
    ((8, 2), (5, 5), r'\(8, 2\)'),
    ((2, 9), (5, 5), '9'),
  ],
)
def test_a_funnel_that_is_none(dims, shortlists, match):
  pytest.importorskip('qdrant_client')
  with pytest.raises(ValueError, match=match):
    qdrant.funnel_query(np.ones(8), dims, shortlists)


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(export_lib.importlib.util, 'find_spec', lambda _: None)
  argv = ['export', '--to=qdrant', '--embeddings=x.npy', '--out=out']
  monkeypatch.setattr(sys, 'argv', argv)
  with pytest.raises(SystemExit, match='first pip install qdrant-client'):
    export_lib.main()


def test_the_command(rows, tmp_path, monkeypatch, capsys):
  pytest.importorskip('pyarrow')
  np.save(tmp_path / 'x.npy', rows[0])
  np.save(tmp_path / 'y.npy', rows[1][:-1])
  flags = ['--to=parquet', f'--embeddings={tmp_path}/x.npy', '--dims=2,8']

  def main(*more):
    monkeypatch.setattr(sys, 'argv', ['export', *flags, *more])
    export_lib.main()

  main(f'--out={tmp_path}/out')
  assert '70 rows at widths 2, 8' in capsys.readouterr().out
  assert (tmp_path / 'out' / 'rows.parquet').exists()
  for more, match in (
    ([], 'give one of them'),
    (['--url=http://host:6333'], '--to=parquet takes --out'),
    ([f'--out={tmp_path}/o', f'--labels={tmp_path}/y.npy'], r'\(69,\)'),
  ):
    with pytest.raises(SystemExit, match=match):
      main(*more)
