"""Searches compared: the command, its files, and what it refuses."""

import json
import sys

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import __main__ as command
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import row_files
from mrl_jax.terminal import tables


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Queries, database, and labels of both, as foreign .npy files."""
  folder = tmp_path_factory.mktemp('arrays')
  rng = np.random.default_rng(0)
  center_C = rng.normal(size=(5, 8))
  for name, count in (('queries', 12), ('database', 60)):
    label_N = rng.integers(0, 5, count)
    row_ND = center_C[label_N] + rng.normal(size=(count, 8))
    np.save(folder / f'{name}.npy', row_ND.astype(np.float32))
    np.save(folder / f'{name}_labels.npy', label_N)
  return folder


def main(monkeypatch, folder, *flags, labels=False):
  argv = [f'--{name}={folder}/{name}.npy' for name in ('queries', 'database')]
  if labels:
    argv.append(f'--query_labels={folder}/queries_labels.npy')
    argv.append(f'--database_labels={folder}/database_labels.npy')
  argv += ['--dims=2,8', '--k=10', '--shortlist=20', *flags]
  monkeypatch.setattr(sys, 'argv', ['retrieval', *argv])
  command.main()


def load(folder, name):
  return np.load(folder / f'{name}.npy')


def test_without_labels_by_k_recall(monkeypatch, folder, tmp_path, capsys):
  main(monkeypatch, folder, f'--out={tmp_path}')
  record = json.loads((tmp_path / 'retrieval.json').read_text())
  assert (record['queries'], record['database']) == (12, 60)
  assert list(record['methods']) == ['2', '8', '2-8']
  assert record['methods']['8']['metrics'] == {
    'krecall1': 100,
    'krecall10': 100,
  }
  assert record['methods']['2-8']['mflops_per_query'] == (60 * 2 + 20 * 8) / 1e6
  with np.load(tmp_path / '2.npz', allow_pickle=False) as file:
    ids_QK = file['ids']
  query_QD, database_MD = load(folder, 'queries'), load(folder, 'database')
  exact = retrieval.search(query_QD, database_MD, 10)
  expected = 100 * metrics.k_recall(ids_QK, exact.ids_QK)
  assert 0 < expected < 100
  assert record['methods']['2']['metrics']['krecall10'] == expected
  assert '10-recall@10 %' in capsys.readouterr().out


def test_with_labels_by_the_papers_metrics(monkeypatch, folder, tmp_path):
  main(monkeypatch, folder, f'--out={tmp_path}', labels=True)
  record = json.loads((tmp_path / 'retrieval.json').read_text())
  values = record['methods']['2-8']['metrics']
  assert list(values)[:4] == ['top1', 'map10', 'p10', 'r10']
  assert values['krecall10'] < 100
  with np.load(tmp_path / '2-8.npz', allow_pickle=False) as file:
    label_QK = load(folder, 'database_labels')[file['ids']]
  query_label_Q = load(folder, 'queries_labels')
  map10 = metrics.mean_average_precision(label_QK, query_label_Q, 10)
  np.testing.assert_allclose(values['map10'], 100 * map10)
  assert tables.retrieval(record['methods']).header[1] == 'top-1 %'


def test_labels_of_another_length_are_refused(monkeypatch, folder, tmp_path):
  np.save(tmp_path / 'y.npy', np.zeros(11, int))
  flag = f'--query_labels={tmp_path}/y.npy'
  with pytest.raises(SystemExit, match=r'y.npy of shape \(11,\): .* \(12,\)'):
    main(monkeypatch, folder, flag)
  np.save(tmp_path / 'y.npy', np.zeros(12, np.float16))
  with pytest.raises(SystemExit, match='of float16: must be integers'):
    main(monkeypatch, folder, flag)


def test_labels_of_one_side_are_refused(monkeypatch, folder):
  flag = f'--query_labels={folder}/queries_labels.npy'
  with pytest.raises(SystemExit, match='labels of one side'):
    main(monkeypatch, folder, flag)


@pytest.mark.parametrize(
  ('flag', 'match'),
  [
    ('--dims=8,2', r'\(8, 2\)'),
    ('--dims=2,9', '9'),
    ('--k=61', '--k=61'),
    ('--k=0', '--k=0'),
    ('--shortlist=61', '--shortlist=61'),
    ('--shortlist=9', '--shortlist=9'),
    ('--queries=nowhere.npy', 'nowhere.npy cannot be read'),
  ],
)
def test_refuses(monkeypatch, folder, flag, match):
  with pytest.raises(SystemExit, match=match) as caught:
    main(monkeypatch, folder, flag)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'other', [np.ones((3, 7), np.float32), np.ones((3, 8), np.float64)]
)
def test_another_width_or_dtype_is_refused(
  monkeypatch, folder, tmp_path, other
):
  np.save(tmp_path / 'q.npy', other)
  with pytest.raises(SystemExit, match=f'{other.dtype} of width'):
    main(monkeypatch, folder, f'--queries={tmp_path}/q.npy')


@pytest.mark.parametrize(
  'rows', [np.ones((3, 8), int), np.ones(3), np.ones((0, 8))]
)
def test_what_is_no_embeddings_is_refused(tmp_path, rows):
  np.save(tmp_path / 'x.npy', rows)
  with pytest.raises(ValueError, match='must be floats'):
    row_files.load_rows(tmp_path / 'x.npy')


def test_pickles_are_refused(tmp_path):
  np.save(tmp_path / 'x.npy', np.array([{}]), allow_pickle=True)
  with pytest.raises(ValueError, match='cannot be read'):
    row_files.load_rows(tmp_path / 'x.npy')


@pytest.mark.parametrize('name', ['train-x', 'train'])
def test_a_manifest_that_disagrees(tmp_path, name):
  path, manifest = tmp_path / f'{name}.npy', tmp_path / 'train.json'
  np.save(path, np.ones((3, 8), np.float32))
  manifest.write_text('{"count": 3, "dim": 8, "nesting_dims": [2, 8]}')
  _, found = row_files.load_rows(path)
  assert row_files.default_dims(8, found) == (2, 8)
  manifest.write_text('{"count": 4, "dim": 8}')
  with pytest.raises(ValueError, match=r'says 4 rows of width 8, .* has 3'):
    row_files.load_rows(path)


def test_default_dims():
  assert row_files.default_dims(64, {}) == (8, 16, 32, 64)
  assert row_files.default_dims(100, {}) == (8, 16, 32, 64, 100)
  assert row_files.default_dims(5, {}) == (5,)
