"""Graded relevance: by hand, as trec_eval, and in BEIR's files."""

import gzip
import json
import sys

import numpy as np
import pytest

from mrl_jax.retrieval import __main__ as command
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import qrels as qrels_lib

# The second query has three relevant rows, of which it finds one; the third
# was judged, and nothing is relevant.
GRADES = np.array([[0, 2, 1], [0, 0, 3], [0, -1, 0]])
JUDGED = np.array([[1, 2, 0, 0], [1, 3, 1, 0], [-1, 0, 0, 0]])
QUERY_IDS, ROW_IDS = ['q1', 'q2', 'q3'], [f'd{i}' for i in range(12)]


def test_by_hand():
  discount = 1 / np.log2([2, 3, 4])
  ndcg = (2 * discount[1] + discount[2]) / (2 * discount[0] + discount[1])
  ndcg += 3 * discount[2] / (3 * discount[0] + discount[1:].sum())
  values = metrics.graded_summary(GRADES, JUDGED, (1, 2, 3))
  expected = {
    'ndcg3': ndcg / 3, 'mrr3': (1 / 2 + 1 / 3) / 3, 'mrr2': 1 / 2 / 3,
    'success1': 0, 'success3': 2 / 3, 'r3': (1 + 1 / 3) / 3,
    # One of the two among the first two, and one of the three.
    'rprec': (1 / 2 + 1 / 3) / 3,
  }  # fmt: skip
  for name, value in expected.items():
    assert values[name] == pytest.approx(value), name


def random_qrels(rng, queries=9, rows=40):
  pair_J = np.sort(rng.choice(queries * rows, 150, replace=False))
  grade_J = rng.integers(-1, 4, 150)
  return qrels_lib.Qrels(
    *np.divmod(pair_J, rows), grade_J, shape=(queries, rows)
  )


def test_equals_trec_eval_with_ties():
  pytrec_eval = pytest.importorskip(
    'pytrec_eval', reason='pip install pytrec-eval-terrier'
  )
  rng = np.random.default_rng(0)
  qrels = random_qrels(rng)
  names = [f'{"xy"[i % 2]}{i}' for i in range(40)]
  judged = {f'{q}': {} for q in range(9)}
  for q, row, grade in zip(
    qrels.query_J, qrels.row_J, qrels.grade_J, strict=True
  ):
    judged[f'{q}'][names[row]] = int(grade)
  ids_QK = np.argsort(rng.random((9, 40)), axis=1)[:, :12]
  # Scores of few values tie.
  scores_QK = rng.integers(0, 4, ids_QK.shape) / np.float32(4)
  run = {
    f'{q}': {names[i]: float(x) for i, x in zip(ids_K, scores_K, strict=True)}
    for q, (ids_K, scores_K) in enumerate(zip(ids_QK, scores_QK, strict=True))
  }
  theirs = pytrec_eval.RelevanceEvaluator(
    judged, {'ndcg_cut.1,5,12', 'recip_rank', 'Rprec', 'success.1,5',
             'recall.5,12'}
  ).evaluate(run)  # fmt: skip
  mean = {name: np.mean([x[name] for x in theirs.values()])
          for name in theirs['0']}  # fmt: skip
  ours = qrels.summary(
    qrels_lib.trec_order(ids_QK, scores_QK, names), (1, 5, 12)
  )
  for name, their_name in (
    ('ndcg1', 'ndcg_cut_1'), ('ndcg5', 'ndcg_cut_5'), ('ndcg12', 'ndcg_cut_12'),
    ('mrr12', 'recip_rank'), ('rprec', 'Rprec'), ('success1', 'success_1'),
    ('success5', 'success_5'), ('r5', 'recall_5'), ('r12', 'recall_12'),
  ):  # fmt: skip
    assert ours[name] == pytest.approx(mean[their_name], abs=1e-12), name
  assert ours['ndcg5'] != qrels.summary(ids_QK, (5,))['ndcg5']


def test_queries_without_a_judgement_do_not_count():
  qrels = qrels_lib.Qrels(*np.array([[0, 2], [3, 1], [1, 2]]), (3, 4))
  ids_QK = np.array([[3, 0], [0, 1], [0, -1]])
  values = qrels.summary(ids_QK, (1, 2))
  assert values['success1'] == values['r2'] == 1 / 2
  # Query 0 is row 3, its only relevant one: it counts no more.
  left = qrels.without([3, -1, -1])
  assert left.judged_Q.tolist() == [2]
  assert left.summary(ids_QK, (2,))['success2'] == 0


def test_files(tmp_path):
  qrels = random_qrels(np.random.default_rng(1))
  ids = [f'ü {i}' for i in range(9)], [str(99 - i) for i in range(40)]
  qrels_lib.write(tmp_path / 'qrels.tsv', qrels, *ids)
  lines = (tmp_path / 'qrels.tsv').read_text(encoding='utf-8').splitlines()
  assert lines[0] == 'query-id\tcorpus-id\tscore' and len(lines) == 151
  (tmp_path / 'bare.tsv').write_text('\r\n'.join(lines[1:]), encoding='utf-8')
  for name in ('qrels.tsv', 'bare.tsv'):
    found = qrels_lib.read(tmp_path / name, *ids)
    for array in ('query_J', 'row_J', 'grade_J', 'shape'):
      np.testing.assert_array_equal(
        getattr(found, array), getattr(qrels, array)
      )
  with pytest.raises(ValueError, match='must have no tab'):
    qrels_lib.write(tmp_path / 'x', qrels, ids[0], ['a\tb', *ids[1][1:]])
  with pytest.raises(ValueError, match=r'9 and 39 ids: must be \(9, 40\)'):
    qrels_lib.write(tmp_path / 'x', qrels, ids[0], ids[1][1:])


def test_ids(tmp_path):
  lines = ''.join(json.dumps({'_id': x, 'text': 'ü'}) + '\n' for x in ROW_IDS)
  (tmp_path / 'a.jsonl').write_text(lines)
  with gzip.open(tmp_path / 'a.jsonl.gz', 'wt') as file:
    file.write(lines)
  for name in ('a.jsonl', 'a.jsonl.gz'):
    assert qrels_lib.read_ids(tmp_path / name, 12) == ROW_IDS
    with pytest.raises(ValueError, match='has 12 ids: must be 13'):
      qrels_lib.read_ids(tmp_path / name, 13)
  data = (tmp_path / 'a.jsonl.gz').read_bytes()
  (tmp_path / 'cut.jsonl.gz').write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match=r'cut\.jsonl\.gz cannot be read'):
    qrels_lib.read_ids(tmp_path / 'cut.jsonl.gz', 12)
  for bad in ('{"_id": "d3"}', '{"text": "x"}', 'x', '{"_id": 3}'):
    (tmp_path / 'b.jsonl').write_text(lines + bad)
    with pytest.raises(ValueError, match=r'b.jsonl line 13\b'):
      qrels_lib.read_ids(tmp_path / 'b.jsonl', 13)


@pytest.mark.parametrize(
  ('line', 'match'),
  [
    ('q1\td1', 'has 2 columns'),
    ('q1 d1 1', 'has 1 columns'),
    ('q9\td1\t1', "no query has the id 'q9'"),
    ('q1\td99\t1', "no row has the id 'd99'"),
    ('q1\td1\t1.0', "grade '1.0'"),
    ('q1\td1\t1_0', "grade '1_0'"),
    ('q1\td1\t99999999999', 'whole number below 1e9'),
    ('q1\td2\t1', "'q1' and 'd2' come twice"),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, match):
  (tmp_path / 'q.tsv').write_text(f'q1\td2\t1\n\n{line}\n')
  with pytest.raises(ValueError, match=f'q.tsv line 3.* {match}'):
    qrels_lib.read(tmp_path / 'q.tsv', QUERY_IDS, ROW_IDS)


@pytest.mark.parametrize(
  ('data', 'match'),
  [(b'', 'no judgement'), (b'q1\td\xff\t1', 'cannot be read')],
)
def test_a_file_that_is_none(tmp_path, data, match):
  (tmp_path / 'q.tsv').write_bytes(data)
  with pytest.raises(ValueError, match=match):
    qrels_lib.read(tmp_path / 'q.tsv', QUERY_IDS, ROW_IDS)


@pytest.mark.parametrize(
  ('args', 'match'),
  [
    ((GRADES, JUDGED, (4,)), r'k 4: must be in \[1, 3\]'),
    ((GRADES, JUDGED, (0,)), 'k 0'),
    ((GRADES, JUDGED[:2], (1,)), 'must be'),
    ((GRADES, JUDGED[:, 1:], (1,)), 'query 0 has 2 relevant neighbours, of 1'),
    ((GRADES / 1.0, JUDGED, (1,)), 'float64'),
    ((GRADES[:0], JUDGED[:0], (1,)), 'no query was judged'),
  ],
)
def test_refuses(args, match):
  with pytest.raises(ValueError, match=match):
    metrics.graded_summary(*args)


def test_the_command(tmp_path, monkeypatch, capsys):
  rng = np.random.default_rng(0)
  for name, count in (('x', 9), ('y', 40)):
    np.save(tmp_path / f'{name}.npy', rng.normal(size=(count, 8)))
  qrels = random_qrels(rng)
  ids = [list(map(str, range(n))) for n in (9, 40)]
  qrels_lib.write(tmp_path / 'qrels.tsv', qrels, *ids)
  flags = [f'--queries={tmp_path}/x.npy', f'--database={tmp_path}/y.npy',
           '--dims=2,8', '--k=10', '--shortlist=20',
           f'--out={tmp_path}/out']  # fmt: skip

  def main(*more):
    monkeypatch.setattr(sys, 'argv', ['retrieval', *flags, *more])
    command.main()

  main(f'--qrels={tmp_path}/qrels.tsv')
  record = json.loads((tmp_path / 'out' / 'retrieval.json').read_text())
  with np.load(tmp_path / 'out' / '2-8.npz') as file:
    expected = qrels.summary(file['ids'], (1, 10))
  found = record['methods']['2-8']['metrics']
  for name, value in expected.items():
    assert found[name] == pytest.approx(100 * value)
  assert 'nDCG@10 %' in capsys.readouterr().out and 'krecall10' in found
  row_ND = [np.load(tmp_path / 'x.npy'), rng.normal(size=(31, 8))]
  np.save(tmp_path / 'y.npy', np.concatenate(row_ND))
  main(f'--qrels={tmp_path}/qrels.tsv', '--leave_one_out')
  record = json.loads((tmp_path / 'out' / 'retrieval.json').read_text())
  with np.load(tmp_path / 'out' / '2-8.npz') as file:
    expected = qrels.without(range(9)).summary(file['ids'], (10,))
    assert (file['ids'] != np.arange(9)[:, None]).all()
  found = record['methods']['2-8']['metrics']
  assert found['ndcg10'] == pytest.approx(100 * expected['ndcg10'])
  for name, count in (('qy', 9), ('yy', 40)):
    np.save(tmp_path / f'{name}.npy', np.zeros(count, int))
  labels = [f'--query_labels={tmp_path}/qy.npy',
            f'--database_labels={tmp_path}/yy.npy']  # fmt: skip
  for more, match in (
    ([f'--qrels={tmp_path}/qrels.tsv', *labels], 'labels and qrels'),
    ([f'--query_ids={tmp_path}/q.jsonl'], 'give --qrels'),
    ([f'--qrels={tmp_path}/none.tsv'], 'none.tsv cannot be read'),
  ):
    with pytest.raises(SystemExit, match=match):
      main(*more)
