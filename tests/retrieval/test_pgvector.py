"""Embeddings in a real PostgreSQL server, which the test starts."""

import sys
import warnings

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval.export import __main__ as export_lib
from mrl_jax.retrieval.export import pgvector

DIMS = (4, 8, 16)


@pytest.fixture(scope='module')
def url(tmp_path_factory):
  pytest.importorskip('psycopg')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    pgserver = pytest.importorskip('pgserver')
    try:
      server = pgserver.get_server(tmp_path_factory.mktemp('pg'))
    except Exception as error:
      pytest.skip(f'no PostgreSQL server starts here: {error}')
  yield server.get_uri()
  server.cleanup()


@pytest.fixture(scope='module')
def rows():
  rng = np.random.default_rng(0)
  row_ND = rng.normal(size=(300, 16)).astype(np.float32)
  row_ND[7, :4] = 0  # A prefix without direction scores 0.
  return row_ND, rng.integers(0, 4, 300)


@pytest.fixture
def connected(url):
  import psycopg

  with psycopg.connect(url, autocommit=True) as link:
    link.execute('DROP TABLE IF EXISTS mine')
    yield link


def export(monkeypatch, tmp_path, rows, *flags):
  np.save(tmp_path / 'x.npy', rows[0])
  np.save(tmp_path / 'y.npy', rows[1])
  argv = ['export', '--to=pgvector', f'--embeddings={tmp_path}/x.npy', *flags]
  monkeypatch.setattr(sys, 'argv', argv)
  export_lib.main()


def test_sql_is_our_funnel(url, connected, rows, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(export_lib, '_BLOCK_BYTES', 64 * 120)
  flags = [f'--url={url}', '--dims=4,8,16', '--collection=mine']
  export(monkeypatch, tmp_path, rows, *flags, f'--labels={tmp_path}/y.npy')
  out = capsys.readouterr().out
  assert '300 rows at widths 4, 8, 16 in the table mine' in out
  assert 'SET hnsw.ef_search = 200;' in out
  assert pgvector.funnel_sql(DIMS, (200, 10, 10), 'mine') in out
  query_QD = np.random.default_rng(1).normal(size=(6, 16)).astype(np.float32)
  for index in ('off', 'on'):
    connected.execute(f'SET enable_indexscan = {index}')
    connected.execute(
      f'SET enable_seqscan = {"on" if index == "off" else "off"}'
    )
    connected.execute(pgvector.settings(300))
    for dims, shortlists in (((16,), (5,)), (DIMS, (80, 20, 5))):
      sql = pgvector.funnel_sql(dims, shortlists, 'mine')
      ours = retrieval.funnel(
        query_QD, rows[0], dims=dims, shortlists=shortlists
      )
      found = [
        connected.execute(sql, pgvector.parameters(query_D, dims)).fetchall()
        for query_D in query_QD
      ]
      ids_QK, label_QK, score_QK = np.moveaxis(np.array(found), -1, 0)
      shared = np.mean(ids_QK == ours.ids_QK)
      # A graph may miss some, and prefixes may be of half precision.
      assert shared == 1 if dims == (16,) else shared > 0.9
      np.testing.assert_array_equal(label_QK, rows[1][ids_QK.astype(int)])
      if shared == 1:
        np.testing.assert_allclose(score_QK, ours.scores_QK, atol=1e-5)
    plan = connected.execute(f'EXPLAIN {sql}', pgvector.parameters(
      query_QD[0], DIMS)).fetchall()  # fmt: skip
    assert ('Index Scan using mine_embedding_4_idx' in str(plan)) == (
      index == 'on'
    )


def test_a_prefix_without_direction_and_no_labels(url, connected, rows):
  blocks = export_lib.unit_prefixes(rows[0], (4, 16))
  pgvector.fill(url, 'mine', (4, 16), blocks)
  sql = 'SELECT label, -(embedding_4 <#> %(q4)s) FROM mine WHERE id = 7'
  found = connected.execute(sql, pgvector.parameters(rows[0][0], (4,)))
  assert found.fetchall() == [(None, 0)]


def test_a_table_is_whole_or_not_there(url, connected, rows):
  row_ND = rows[0].copy()
  row_ND[250] = np.nan

  def fill(row_ND):
    blocks = export_lib.unit_prefixes(row_ND, (4, 16))
    pgvector.fill(url, 'mine', (4, 16), blocks)

  with pytest.raises(ValueError, match='row 250'):
    fill(row_ND)
  missing = connected.execute("SELECT to_regclass('mine')").fetchone()
  assert missing == (None,)
  fill(rows[0])
  with pytest.raises(ValueError, match="table 'mine' is there already"):
    fill(rows[0])
  assert connected.execute('SELECT count(*) FROM mine').fetchone() == (300,)


@pytest.mark.parametrize(
  ('flags', 'match'),
  [
    (['--out=x'], '--out: --to=pgvector takes --url'),
    (['--url=postgresql://127.0.0.1:1/x'], 'PostgreSQL: .*refused'),
    (['--url=http://127.0.0.1:1/x'], 'PostgreSQL: '),
    (['--url=x', '--collection=Robert; DROP'], "table 'Robert; DROP'"),
  ],
)
def test_refuses(rows, tmp_path, monkeypatch, flags, match):
  pytest.importorskip('psycopg')
  with pytest.raises(SystemExit, match=match) as caught:
    export(monkeypatch, tmp_path, rows, *flags)
  assert '\n' not in str(caught.value)


def test_queries_by_hand():
  assert pgvector.funnel_sql((2, 4), (20, 5)) == (
    'SELECT id, label, -(embedding_4 <#> %(q4)s) AS score FROM (SELECT id, '
    'label, embedding_4 FROM embeddings ORDER BY embedding_2 <#> %(q2)s LIMIT '
    '20) AS of_2 ORDER BY embedding_4 <#> %(q4)s, id LIMIT 5'
  )
  assert pgvector.parameters(np.array([3.0, 4, 0]), (2,)) == {
    'q2': '[0.6000000238418579,0.800000011920929]'
  }
  for args, match in (
    (((4, 2), (5, 5)), r'\(4, 2\)'),
    (((2, 4), (5, 6)), 'never grow'),
    (((2, 4), (1001, 6)), 'shortlist 1001'),
  ):
    with pytest.raises(ValueError, match=match):
      pgvector.funnel_sql(*args)
  with pytest.raises(ValueError, match=r'shape \(1, 2\)'):
    pgvector.parameters(np.ones((1, 2)), (2,))


def test_packed_by_hand():
  vectors = [np.array([[1.0]]), np.array([[1.0, -2]])]
  packed = pgvector._packed(3, vectors, ['halfvec', 'vector'], None)
  assert packed == bytes.fromhex(
    '0004 00000008 0000000000000003 ffffffff'
    '00000006 0001 0000 3c00 0000000c 0002 0000 3f800000 c0000000'
  )


def test_a_missing_driver_is_named(monkeypatch):
  monkeypatch.setattr(export_lib.importlib.util, 'find_spec', lambda _: None)
  argv = ['export', '--to=pgvector', '--embeddings=x.npy', '--url=x']
  monkeypatch.setattr(sys, 'argv', argv)
  with pytest.raises(
    SystemExit, match=r'first pip install "psycopg\[binary\]"'
  ):
    export_lib.main()
