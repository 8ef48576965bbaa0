"""What fits a budget, and which search is the cheapest that will do."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import compare
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import prefixes
from mrl_jax.retrieval import quantized
from mrl_jax.retrieval.export import __main__ as export_lib
from mrl_jax.retrieval.export import qdrant
from mrl_jax.retrieval.plan import __main__ as plan
from mrl_jax.retrieval.plan import budget
from mrl_jax.retrieval.plan import cluster
from mrl_jax.retrieval.plan import pareto

ROWS, BUDGET = '--rows=50e6', '--budget=100GB'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A database whose first dims tell little, and labels."""
  folder = tmp_path_factory.mktemp('arrays')
  rng = np.random.default_rng(0)
  center_C = rng.normal(size=(6, 8))
  for name, count in (('queries', 20), ('database', 90)):
    label_N = rng.integers(0, 6, count)
    row_ND = center_C[label_N] + rng.normal(size=(count, 8)) / 2
    np.save(folder / f'{name}.npy', row_ND.astype(np.float32))
    np.save(folder / f'{name}_labels.npy', label_N)
  return folder


def main(monkeypatch, *flags):
  monkeypatch.setattr(sys, 'argv', ['plan', *flags])
  plan.main()


def measured(monkeypatch, folder, *flags):
  kinds = (pareto.exact, pareto.adaptive, pareto.funnels)
  monkeypatch.setattr(pareto, 'CANDIDATES', kinds)
  path = folder / 'plan.json'
  arrays = [f'--{name}={folder}/{name}.npy' for name in ('queries', 'database')]
  main(
    monkeypatch, ROWS, BUDGET, *arrays, '--dims=2,8', '--shortlists=20,40',
    f'--json={path}', *flags,
  )  # fmt: skip
  return json.loads(path.read_text())


def test_the_blogs_example(monkeypatch, capsys):
  main(monkeypatch, ROWS, BUDGET)
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  # 100e9 / 50e6 = 2,000 bytes a row; 16 * 50e6 + 200 * 500 multiply-adds.
  assert lines[2] == [
    'float32', '500', '2,000', '25,000.0', '100,000.0', '800.1', '3,200.4'
  ]  # fmt: skip
  assert [line[1] for line in lines[3:]] == ['1,000', '2,000', '16,000']


def test_fits_by_hand():
  found = {fit.kind: fit for fit in budget.fits(10, 47, shortlist=2)}
  assert [fit.dims for fit in found.values()] == [1, 2, 4, 32]
  assert found['binary'].row_bytes == 4
  # Ten rows of 16 bits, and two of 32.
  assert found['binary'].adaptive_query_bytes == 10 * 2 + 2 * 4
  assert found['binary'].adaptive_mflops == (10 * 16 + 2 * 32) / 1e6
  bounded = budget.fits(10, 47, shortlist=2, width=9)
  assert [fit.dims for fit in bounded] == [1, 2, 4, 9]
  assert bounded[3].row_bytes == 2
  assert budget.fits(10, 9, shortlist=2)[0].dims == 0


def test_bytes():
  for text, value in (
    ('100GB', 100e9), ('1.5TiB', 1.5 * 2**40), ('7', 7), ('2kB', 2e3),
    ('1e3 B', 1e3),
  ):  # fmt: skip
    assert budget.parse_bytes(text) == value


def test_front_and_recommendation_by_hand():
  make = lambda name, accuracy, mflops, row_bytes=8: pareto.Point(
    name, accuracy, mflops, 10 - mflops, 1, row_bytes
  )
  points = [
    make('full', 90, 9, 32), make('worse', 70, 5), make('good', 89.5, 4),
    make('best', 91, 6, 64), make('cheap', 60, 1), make('same', 60, 2),
  ]  # fmt: skip
  assert [p.name for p in pareto.front(points)] == ['cheap', 'good', 'best']
  assert [p.name for p in pareto.front(points, 'bytes')] == [
    'full', 'best'
  ]  # fmt: skip
  recommend = lambda **kwargs: pareto.recommend(points, **kwargs)
  assert recommend(at_least=0.99 * 90).name == 'good'
  assert recommend(at_least=90).name == 'best'
  assert recommend(at_least=90, row_bytes=32).name == 'full'
  assert recommend(at_least=92) is None


def test_measured_by_k_recall(monkeypatch, folder, capsys):
  record = measured(monkeypatch, folder, '--recall=0.6')
  points = {point['name']: point for point in record['points']}
  assert list(points) == ['2', '8', '2 → 8, K 20', '2 → 8, K 40']
  assert points['8'] == record['exact']
  assert record['exact']['accuracy'] == 100
  adaptive = points['2 → 8, K 40']
  # At the rows that are planned, not at those measured.
  assert adaptive['mflops'] == (50e6 * 2 + 40 * 8) / 1e6
  assert adaptive['row_bytes'] == 32
  query_QD, database_MD = (
    np.load(folder / f'{name}.npy') for name in ('queries', 'database')
  )
  found = retrieval.adaptive(
    query_QD, database_MD, 10, shortlist_dim=2, rerank_dim=8, shortlist=40
  )
  exact = retrieval.search(query_QD, database_MD, 10)
  expected = 100 * metrics.k_recall(found.ids_QK, exact.ids_QK)
  assert adaptive['accuracy'] == expected
  assert points['2']['accuracy'] < 60 <= expected < 100
  assert record['recommended']['name'] == '2 → 8, K 40'
  assert 'recommended: 2 → 8, K' in capsys.readouterr().out


def test_measured_by_labels(monkeypatch, folder):
  record = measured(
    monkeypatch, folder,
    f'--query_labels={folder}/queries_labels.npy',
    f'--database_labels={folder}/database_labels.npy',
  )  # fmt: skip
  assert record['accuracy'] == 'mAP@10'
  query_label_Q, label_M = (
    np.load(folder / f'{name}_labels.npy') for name in ('queries', 'database')
  )
  exact = retrieval.search(
    *(np.load(folder / f'{name}.npy') for name in ('queries', 'database')), 10
  )
  map10 = metrics.mean_average_precision(
    label_M[exact.ids_QK], query_label_Q, 10
  )
  np.testing.assert_allclose(record['exact']['accuracy'], 100 * map10)


def test_what_does_not_fit_is_not_recommended(monkeypatch, folder, capsys):
  record = measured(monkeypatch, folder, '--budget=1GB', '--recall=1')
  assert record['recommended'] is None
  assert 'nothing recommended' in capsys.readouterr().out


def test_every_kind_of_candidate_is_measured():
  rng = np.random.default_rng(0)
  query_QD, database_MD = (rng.normal(size=(n, 16)) for n in (5, 50))
  database = retrieval.prepare(database_MD, (2, 4, 8, 16))
  grid = pareto.Grid(database, (2, 4, 8, 16), 10, 50, (40,))
  found = pareto.candidates(grid)
  found = {candidate.name: candidate for candidate in found}
  names = [
    '16', '2 → 4, K 40', '2 → 4 → 8 → 16, K 40·20·10', '4 → 8 → 16, K 40·20',
    'int8 8 → 16, K 40', 'binary 8 → 16, K 40', 'int8 8 alone',
    'binary 16 alone',
  ]  # fmt: skip
  if importlib.util.find_spec('faiss'):
    names += [
      'rabitq 16 alone', 'rabitq 8 → 16, K 40', 'ivf 8, 4 probes → 16, K 40'
    ]  # fmt: skip
    # Seven cells, of which four are scanned at eight dims; 40 rows reranked.
    expected = (8 * (7 + 4 * 50 / 7) + 40 * 16) / 1e6
    assert found[names[-1]].mflops == pytest.approx(expected)
  # Codes of 8 bits beside 16 numbers of 64.
  assert found['binary 8 → 16, K 40'].row_bytes == 1 + 16 * 8
  assert found['int8 8 alone'].row_bytes == 8
  judge = compare.make_judge(query_QD, database, 10)
  for name in names:
    point = pareto.measure(found[name], query_QD, judge)
    assert 0 < point.accuracy <= 100 and point.ms > 0
  # As if only the codes were there.
  codes = quantized.quantize(database, 'int8', 8)
  stored_Md = codes.code_MB * codes.scale_d + codes.center_d
  score_QM = prefixes.unit(query_QD, 8) @ stored_Md.T
  expected = judge(np.argsort(-score_QM, axis=1)[:, :10])['krecall10']
  point = pareto.measure(found['int8 8 alone'], query_QD, judge)
  assert point.accuracy == expected


@pytest.mark.parametrize(
  ('flag', 'match'),
  [
    ('--recall=1.1', '--recall=1.1'),
    ('--recall=0', '--recall=0'),
    ('--queries=x.npy', 'give both or neither'),
    ('--shortlist=0', 'shortlist 0'),
    ('--shortlist_dim=-1', 'shortlist_dim -1'),
    ('--rows=100', 'shortlist 200: must be at most 100'),
    ('--budget=0GB', 'budget 0'),
  ],
)
def test_refuses(monkeypatch, flag, match):
  with pytest.raises(SystemExit, match=match):
    main(monkeypatch, ROWS, BUDGET, flag)


@pytest.mark.parametrize('text', ['100XB', 'GB', '-1GB', '1.2.3GB'])
def test_bytes_that_are_none(text):
  with pytest.raises(ValueError):
    budget.parse_bytes(text)


def test_a_cluster_by_hand():
  # 50 rows a node and 4 dims of 32 bits, 16 of 8 or 64 of 1, beside the graph.
  memory = 50 * (16 + 4 * 2 * 16 + 28) / 0.8
  found = cluster.fits(100, 2, memory, width=40, shortlist=7)
  assert [(x.code, x.dims) for x in found] == [('int8', 16), ('binary', 40)]
  int8, binary = found
  assert int8.row_bytes == 16 + 128 + 28 and int8.memory == 50 * 172
  assert int8.disk == 50 * 4 * (40 + 16)
  assert binary.disk == 50 * 4 * 40  # The prefix is the row.
  assert binary.query_bytes == 50 * 5 + 7 * 4 * 40
  sizes, ns = cluster.SCAN['int8']
  assert sizes[0] == 16 and int8.ms == pytest.approx(50 * ns[0] / 1e6)
  assert cluster.choose(found, []) == binary
  point = lambda name, k_recall: {'name': name, 'k_recall': k_recall}
  points = [point('int8 16 → 40, K 7', 90), point('binary 40 → 40, K 7', 80)]
  assert cluster.choose(found, points) == int8


@pytest.mark.parametrize('memory', [6_500, 100_000])
def test_the_printed_collection_is_our_adaptive_search(memory, capsys):
  qdrant_client = pytest.importorskip('qdrant_client')
  found = cluster.fits(240, 8, memory, width=32, shortlist=20)
  _, record = cluster.describe(found, 8, 32, 20, [])
  record = json.loads(json.dumps(record))
  assert record['collection']['shard_number'] == 16
  rng = np.random.default_rng(0)
  row_MD, query_QD = (rng.normal(size=(n, 32)) for n in (240, 4))
  dims = [int(name) for name in record['collection']['vectors']]
  client = qdrant_client.QdrantClient(':memory:')
  blocks = export_lib.unit_prefixes(row_MD, dims)
  qdrant.fill(client, 'x', dims, blocks, body=record['collection'])
  chosen = cluster.choose(found, [])
  for query_D in query_QD:
    vectors = {dim: prefixes.unit(query_D[None], dim)[0].tolist()
               for dim in dims}  # fmt: skip
    body = cluster.query(chosen, 32, 20, 10, vectors)
    request = qdrant_client.models.QueryRequest(**body)
    points = client.query_points(
      'x', query=request.query, using=request.using, limit=request.limit,
      prefetch=request.prefetch,
    ).points  # fmt: skip
    # The embedded storage reads floats in place of codes.
    expected = retrieval.funnel(
      query_D[None], row_MD, dims=dims, shortlists=(20, 10)[-len(dims) :]
    )
    assert [x.id for x in points] == expected.ids_QK[0].tolist()
  client.close()


def test_a_cluster_is_planned(monkeypatch, folder, capsys, tmp_path):
  flags = ['--rows=1e9', '--nodes=8', '--memory=64GB', '--width=2048']
  main(monkeypatch, *flags, f'--json={tmp_path}/plan.json')
  out = capsys.readouterr().out
  assert '8 nodes, 125,000,000 rows of width 2048 each' in out
  assert 'PUT /collections/embeddings\n{"vectors": {"128": ' in out
  record = json.loads((tmp_path / 'plan.json').read_text())
  dims = {node['code']: node['dims'] for node in record['nodes']}
  assert dims == {'float32': 32, 'int8': 128, 'binary': 1024}
  assert record['query']['prefetch']['using'] == '128'
  for wrong in (flags[:2], [*flags, BUDGET], flags[:1]):
    with pytest.raises(SystemExit, match='give one or the other'):
      main(monkeypatch, *wrong)
  for flag, match in (
    ('--memory=8GB', 'needs 24.5 GB at least'),
    ('--nodes=0', 'nodes 0'),
    ('--width=0', 'width 0'),
  ):
    with pytest.raises(SystemExit, match=match):
      main(monkeypatch, *flags, flag)


def test_a_shortlist_beyond_the_rows(monkeypatch, folder):
  with pytest.raises(SystemExit, match=r'shortlist 91: must be in \[10, 90\]'):
    measured(monkeypatch, folder, '--shortlists=91')
