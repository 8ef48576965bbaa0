"""Runs side by side: from whole small runs, and the arithmetic by hand."""

import shutil

import numpy as np
import pytest
from sklearn import datasets
from sklearn import linear_model
from sklearn import pipeline
from sklearn import preprocessing

from mrl_jax import stages
from mrl_jax.compare import __main__ as compare
from mrl_jax.compare import probe
from mrl_jax.compare import published
from mrl_jax.compare import runs


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory, data_dir):
  """MRL at 2, 8 and 64, the fixed head at 64, and slimmable, evaluated."""
  from tests import conftest

  paths = []
  for head, dims, between in (
    ('mrl', (2, 8, 64), ()),
    ('fixed', (64,), ()),
    ('mrl_e', (16, 64), (2, 8)),
  ):
    config = conftest.shrunk(data_dir)
    config.update(head=head, nesting_dims=dims, eval_dims=between)
    config.slimmable = head == 'mrl_e'
    config.num_epochs, config.peak_epoch = 1, 0.5
    path = tmp_path_factory.mktemp(head)
    stages.run(config, path, ('train', 'embed', 'evaluate'))
    paths.append(str(path))
  return paths


def cells(text: str, title: str) -> dict[str, list[str]]:
  """A printed table's columns."""
  lines = text[text.index(title) :].splitlines()[1:5]
  header, *rows = [line.split('  ') for line in lines]
  header, *rows = (
    [x.strip() for x in row if x.strip()] for row in (header, *rows)
  )
  return dict(zip(header, zip(*rows, strict=True), strict=True))


def test_two_runs(workdirs, capsys):
  compare.run(workdirs[:2])
  text = capsys.readouterr().out
  linear, neighbor = cells(text, 'Linear'), cells(text, '1-NN top')
  assert linear['width'] == ('2', '8', '64')
  assert list(linear) == ['width', 'Rand. LP', 'SVD', 'FF', 'MRL']
  assert list(neighbor) == [
    'width', 'Rand. FS', 'SVD', 'JL', 'FF cut', 'FF', 'MRL'
  ]  # fmt: skip
  mrl, fixed = map(runs.read, workdirs[:2])
  assert linear['MRL'] == tuple(f'{mrl.linear[d]:.2f}' for d in (2, 8, 64))
  assert linear['FF'] == ('–', '–', f'{fixed.linear[64]:.2f}')
  assert neighbor['FF'] == ('–', '–', f'{fixed.neighbor[64]:.2f}')
  # Nothing is cut at the full width.
  assert neighbor['FF cut'][-1] == neighbor['FF'][-1]
  assert linear['SVD'][-1] == '–'
  assert 'published' not in text
  compare.run(workdirs[:2], probe=False)
  text = capsys.readouterr().out
  assert 'Rand. LP' not in text and 'SVD' in text


def test_a_slimmable_run(workdirs, capsys):
  """Prefixes of the largest network; also where MRL was not trained for."""
  compare.run([workdirs[0], workdirs[2]])
  text = capsys.readouterr().out
  slim = runs.read(workdirs[2])
  assert slim.kind == 'Slim'
  for title, found in (('Linear', slim.linear), ('1-NN top', slim.neighbor)):
    columns = cells(text, title)
    assert list(columns) == ['width', 'Slim', 'MRL']
    expected = [f'{found[dim]:.2f}' for dim in (2, 8, 16)]
    assert list(columns['Slim'][:3]) == expected


def test_seeds_are_averaged_and_what_is_lacking_is_said(workdirs, capsys):
  compare.run([workdirs[0], workdirs[0]])
  text = capsys.readouterr().out
  assert cells(text, 'Linear')['MRL'][0].endswith('± 0.00')
  assert "need a run of the fixed head at all of the encoder's" in text


def test_published_figures_carry_their_marks(workdirs, capsys, monkeypatch):
  linear, neighbor = (published.table(name) for name in ('linear', '1-NN'))
  assert linear['MRL'][8] == '66.63' and linear['FF'][32] == '74.60 M'
  assert linear['FF'][8] == '65.29 N' and 2048 not in linear['SVD']
  assert neighbor['JL'][8] == '0.11 M' and 1024 not in neighbor['JL']
  assert all(
    len(row) >= 7 for table in (linear, neighbor) for row in table.values()
  )
  monkeypatch.setattr(published, 'DATASET', 'digits')
  compare.run(workdirs[:1])
  text = capsys.readouterr().out
  assert '66.63' in text and '56.66' in text
  assert 'M, recalled, not confirmed' in text


def test_low_rank_by_hand():
  """Rank 1 of a diagonal classifier keeps the larger entry."""
  kernel_DC = np.diag([1.0, 3.0])
  query_QD = np.array([[5.0, 1.0], [5.0, 2.0], [0.0, 1.0]])
  bias_C = np.array([1.0, 0.0])
  found = runs.low_rank(
    kernel_DC, bias_C, query_QD, np.array([0, 0, 1]), (1, 2)
  )
  # Logits at rank 1: (1, 3), (1, 6), (1, 3): class 1 every time.
  np.testing.assert_allclose(found[1], 100 / 3)
  assert 2 not in found


def test_a_probe_finds_what_a_dim_knows():
  row_MD = np.array([[0.0, 1], [1, 0], [0, 0], [1, 1]] * 5)
  label_M = row_MD[:, 1].astype(int)
  rows = probe.Rows(row_MD, label_M)
  found = probe.top1(rows, rows, (1, 2), num_classes=2)
  assert found == {1: 50.0, 2: 100.0}
  found = probe.top1(rows, rows, (1,), num_classes=2, order_D=np.array([1, 0]))
  assert found == {1: 100.0}


def test_a_probe_is_scikit_learns(tmp_path):
  """Pixels, some of them always 0, are read from a file; twice the same."""
  digits = datasets.load_digits()
  order_N = np.random.default_rng(0).permutation(len(digits.target))
  pixels_ND = digits.data[order_N].astype(np.float32)
  rows, queries = (pixels_ND[part] for part in (slice(1200), slice(1200, None)))
  label_N = digits.target[order_N]
  np.save(tmp_path / 'rows.npy', rows)
  order_D = np.random.default_rng(1).permutation(64)
  fit = lambda: probe.top1(
    probe.Rows(np.load(tmp_path / 'rows.npy', mmap_mode='r'), label_N[:1200]),
    probe.Rows(queries, label_N[1200:]),
    (4, 16, 64),
    num_classes=10,
    order_D=order_D,
  )
  found = fit()
  assert found == fit()
  for dim, accuracy in found.items():
    chosen = order_D[:dim]
    classifier = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(max_iter=5000),
    ).fit(rows[:, chosen], label_N[:1200])
    share = classifier.score(queries[:, chosen], label_N[1200:])
    assert accuracy == pytest.approx(100 * share, abs=1)


def test_what_no_probe_is_fitted_to():
  rows = probe.Rows(np.ones((4, 2)), np.array([0, 1, 2, 1]))
  with pytest.raises(ValueError, match='label 2 at position 2'):
    probe.top1(rows, rows, (2,), num_classes=2)
  rows.row_ND[3, 1] = np.nan
  with pytest.raises(ValueError, match='row 3 is not finite'):
    probe.top1(rows, rows, (2,), num_classes=3)


def test_runs_that_do_not_compare(workdirs, config, tmp_path):
  with pytest.raises(ValueError, match='is no workdir'):
    compare.run([str(tmp_path)])
  untrained = tmp_path / 'untrained'
  stages.open_workdir(config, untrained).write_config()
  with pytest.raises(ValueError, match='run --mode=train first'):
    compare.run([str(untrained)])
  trained = shutil.copytree(workdirs[0], tmp_path / 'trained')
  metrics = trained / 'metrics.jsonl'
  lines = metrics.read_text().splitlines(keepends=True)
  metrics.write_text(''.join(line for line in lines if 'knn1' not in line))
  with pytest.raises(ValueError, match='run --mode=evaluate first'):
    compare.run([str(trained)])
  one, other = map(runs.read, workdirs[:2])
  config = other.config.copy_and_resolve_references()
  config.eval_split = 'train'
  with pytest.raises(ValueError, match=r"eval_split 'train' and .*test"):
    runs.check_alike([one, other._replace(config=config)])
