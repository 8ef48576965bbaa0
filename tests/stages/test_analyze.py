"""The stages evaluate and analyze, on the shrunk digits and two other sets."""

import csv
import dataclasses
import io
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from mrl_jax import stages
from mrl_jax.analysis import cascade
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import eval_sets
from mrl_jax.workdir import checksums
from mrl_jax.workdir import metrics_log
from mrl_jax.workdir import predictions
from tests import conftest

DIMS, WIDTHS = (2, 8, 64), (2, 5, 8, 64)
MODES = ('train', 'embed', 'evaluate', 'analyze')
GROUPS = {'0': 'round', '6': 'round', '8': 'round', '1': 'straight'}


def settings(data_dir, root):
  """The evaluation split a second time, and a folder of two classes."""
  config = conftest.shrunk(data_dir)
  config.eval_sets = ('digits@test[:70]', f'folder:{root / "mine"}')
  config.superclasses = str(root / 'groups.json')
  config.knn = 3
  return config


@pytest.fixture(scope='module')
def root(tmp_path_factory, data_dir):
  """Images of threes and sevens, the last of them damaged, and the groups."""
  root = tmp_path_factory.mktemp('sets')
  digits = datasets.open_source('digits', 'test', data_dir)
  for i in range(60):
    example = digits.read(i)
    if example.label in (3, 7):
      path = root / 'mine' / str(example.label) / f'{i:02}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(example.data)
  path.write_bytes(path.read_bytes()[:70])
  (root / 'groups.json').write_text(json.dumps(GROUPS))
  return root


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_dir, root):
  config = settings(data_dir, root)
  path = tmp_path_factory.mktemp('run')
  stages.run(config, path, MODES)
  return config, stages.open_workdir(config, path)


@pytest.fixture
def again(finished, tmp_path):
  """A copy to spoil, and its config."""
  config, workdir = finished
  path = shutil.copytree(workdir.path, tmp_path / 'copy')
  return config.copy_and_resolve_references(), path


def values_of(workdir):
  values = {}
  for record in metrics_log.read_metrics(workdir.metrics):
    values |= record
  return values


def read(workdir, name):
  """An analysis, without NaN, which JSON does not have."""

  def refuse(constant):
    raise AssertionError(constant)

  text = (workdir.analysis / f'{name}.json').read_text()
  return json.loads(text, parse_constant=refuse)


def load(workdir):
  return predictions.load(workdir.predictions, 'test[:70]', DIMS)


def test_a_split_as_another_set_has_the_same_values(finished):
  _, workdir = finished
  values = values_of(workdir)
  names = [name for name in values if name.startswith('val/')]
  kinds = {name.partition('@')[0] for name in names}
  assert kinds == {
    'val/loss', 'val/top1', 'val/top5', 'val/knn1', 'val/knn3',
    'val/shot1way10', 'val/shot5way10',
  }  # fmt: skip
  for name in names:
    np.testing.assert_allclose(
      values[name.replace('val/', 'digits_test_70/')], values[name], rtol=1e-5
    )


def test_a_folder_counts_what_can_be_read(finished):
  config, workdir = finished
  record = json.loads((workdir.evaluation / 'mine.json').read_text())
  images = list((workdir.path / config.eval_sets[1][7:]).rglob('*.png'))
  assert record['examples'] == len(images) - 1
  assert record['values']['top1@64'] == values_of(workdir)['mine/top1@64']
  assert {x['ways'] for x in record['few_shot']} == {2}


def test_a_damaged_image_is_named_and_too_many_are_refused(again, capsys):
  config, path = again
  (path / 'evaluation' / 'mine.json').unlink()
  stages.run(config, path, ('evaluate',))
  assert 'skipped damaged images: 3/' in capsys.readouterr().out
  (path / 'evaluation' / 'mine.json').unlink()
  config.max_damaged = 0
  with pytest.raises(ValueError, match=r'max_damaged=0: 3/\d+.png'):
    stages.run(config, path, ('evaluate',))


def test_tables(finished):
  _, workdir = finished
  values = values_of(workdir)
  for name in ('val', 'digits_test_70', 'mine'):
    lines = (workdir.evaluation / f'{name}.md').read_text().splitlines()
    assert len(lines) == 2 + len(WIDTHS)
    assert lines[0].startswith('| width | loss | top-1 % | top-5 % | 1-NN %')
    text = (workdir.evaluation / f'{name}.csv').read_text()
    rows = {int(r['width']): r for r in csv.DictReader(io.StringIO(text))}
    assert set(rows) == set(WIDTHS)
    assert float(rows[8]['top-1 %']) == values[f'{name}/top1@8']
    assert rows[5]['top-1 %'] == ''  # MRL has no classifier there.
  text = (workdir.evaluation / 'val-classes.csv').read_text()
  rows = list(csv.DictReader(io.StringIO(text)))
  assert [row['class'] for row in rows] == list('0123456789')
  count = np.bincount(load(workdir).label_N, minlength=10)
  accuracy = [float(row['top-1 % at 64']) for row in rows]
  np.testing.assert_allclose(
    np.dot(accuracy, count) / 70, values['val/top1@64'], rtol=1e-6
  )


def test_what_is_saved_is_what_was_measured(finished):
  _, workdir = finished
  found = load(workdir)
  assert found.logits_GNC.shape == (3, 70, 10)
  accuracy = 100 * (found.prediction_GN == found.label_N).mean(1)
  values = values_of(workdir)
  np.testing.assert_allclose(accuracy, [values[f'val/top1@{m}'] for m in DIMS])
  expected = np.load(next(workdir.embeddings.glob('test*-y.npy')))
  np.testing.assert_array_equal(found.label_N, expected)
  top = np.take_along_axis(
    found.logits_GNC, found.prediction_GN[..., None], axis=-1
  )
  # As large as the largest, in half precision.
  np.testing.assert_array_equal(top[..., 0], found.logits_GNC.max(-1))
  assert found.manifest['damaged'] == [] and not found.manifest['flip']


def test_the_files_of_the_analysis(finished):
  _, workdir = finished
  found = load(workdir)
  right_GN = found.prediction_GN == found.label_N
  G, C = 3, 10
  step = load(workdir).manifest['step']
  assert read(workdir, 'cascade')['step'] == step
  curve = read(workdir, 'cascade_curve')
  np.testing.assert_allclose(curve['single'], 100 * right_GN.mean(1))
  for name in ('accuracy', 'expected_dim', 'cumulated_dim'):
    assert {len(curve[name][key]) for key in ('mean', 'std')} == {G}
  assert len(curve['thresholds']['mean']) == G - 1
  assert (curve['repeats'], curve['fit_share']) == (30, 0.2)
  loaded = cascade.load(workdir.analysis / 'cascade.json')
  assert loaded.dims == DIMS
  classes, dims = cascade.predict(loaded, found.logits_GNC)
  assert set(dims) <= set(DIMS) and classes.shape == (70,)
  oracle = read(workdir, 'oracle')
  assert sum(oracle['count']) + oracle['never'] == oracle['examples'] == 70
  np.testing.assert_allclose(oracle['accuracy'], 100 * right_GN.any(0).mean())
  assert sum(oracle['trends'].values()) == len(oracle['trend_of_class']) == C
  assert np.shape(oracle['agreement']) == (G, G)
  calibration = read(workdir, 'calibration')
  assert len(calibration['ece']) == G
  assert {len(calibration['bins'][x]) for x in calibration['bins']} == {G}
  assert np.sum(calibration['bins']['count']) == G * 70
  per_class = read(workdir, 'per_class')
  assert np.shape(per_class['accuracy']) == (G, C)
  assert per_class['classes'] == list('0123456789')
  few_shot = read(workdir, 'few_shot')
  assert few_shot['dims'] == list(WIDTHS)
  assert [(x['shots'], x['ways']) for x in few_shot['settings']] == [
    (1, 10), (5, 10)
  ]  # fmt: skip
  structure = read(workdir, 'structure')
  assert structure['k'] == 10 and structure['explained_variance'][-1] == 1
  np.testing.assert_array_equal(np.diag(structure['overlap']), 1)
  values = values_of(workdir)
  assert values['analysis/oracle'] == oracle['accuracy']
  assert values['analysis/ece@8'] == calibration['ece'][1]
  table = (workdir.analysis / 'table.md').read_text().splitlines()
  assert len(table) == 2 + G and table[0].startswith('| width | top-1 % |')


def test_superclasses(finished):
  _, workdir = finished
  found = load(workdir)
  measured = read(workdir, 'superclass')
  assert measured['groups'] == ['reject', 'round', 'straight']
  group = np.array([GROUPS.get(str(c), 'reject') for c in range(10)])
  same_GN = group[found.prediction_GN] == group[found.label_N]
  np.testing.assert_allclose(measured['accuracy'], 100 * same_GN.mean(1))
  of_round = group[found.label_N] == 'round'
  np.testing.assert_allclose(
    np.array(measured['by_group'])[:, 1], 100 * same_GN[:, of_round].mean(1)
  )
  # Right, wrong inside and across make up a group.
  right_GN = found.prediction_GN == found.label_N
  total = np.array(measured['inside']) + measured['across']
  np.testing.assert_allclose(
    total[:, 1], 100 - 100 * right_GN[:, of_round].mean(1)
  )


def test_neighbourhoods_leave_out_the_example_itself(finished):
  from mrl_jax.workdir import embeddings

  _, workdir = finished
  x, *_ = embeddings.load(workdir.embeddings, 'test[:70]')
  nearest = []
  for dim in (2, 64):
    unit = x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest.append(np.argsort(-similarity, axis=1)[:, :10])
  shared = [len(set(a) & set(b)) for a, b in zip(*nearest, strict=True)]
  expected = np.mean([n / (20 - n) for n in shared])
  found = read(workdir, 'structure')['overlap'][0][2]
  # At width 2 several may be as near as the tenth.
  np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize(
  'change, match',
  [
    ({'superclasses': 'groups'}, "'groups': must be a JSON file"),
    ({'superclasses': 'wordnet_30'}, 'unknown classes n01440764, n01443537'),
    (
      {'cascade': {'repeats': 2, 'fit_share': 0.001, 'temperature': 1.0}},
      '70 examples: too few to fit on a share of 0.001',
    ),
  ],
)
def test_what_the_analysis_refuses(again, change, match):
  config, path = again
  before = {p.name: p.read_bytes() for p in (path / 'analysis').iterdir()}
  config.update(change)
  with pytest.raises(ValueError, match=match):
    stages.run(config, path, ('analyze',))
  assert before == {
    p.name: p.read_bytes() for p in (path / 'analysis').iterdir()
  }


def test_a_mapping_with_unknown_classes_lists_them(again, tmp_path):
  config, path = again
  mapping = tmp_path / 'other.json'
  mapping.write_text(json.dumps({'1': 'a', 'ten': 'b', 'eleven': 'b'}))
  config.superclasses = str(mapping)
  with pytest.raises(ValueError, match='unknown classes eleven, ten'):
    stages.run(config, path, ('analyze',))


def test_a_few_examples_have_fewer_neighbours(again):
  from mrl_jax.analysis import results

  config, path = again
  saved = load(stages.open_workdir(config, path))
  few = saved._replace(
    logits_GNC=saved.logits_GNC[:, :8],
    prediction_GN=saved.prediction_GN[:, :8],
    label_N=saved.label_N[:8],
  )
  x = np.random.default_rng(0).random((8, 64), np.float32)
  found = results.compute(
    DIMS, few, x, [str(i) for i in range(10)], groups=None,
    fitting=results.Fitting(), seed=0,
  )  # fmt: skip
  # All the others, at every width.
  assert found['structure']['k'] == 7
  np.testing.assert_allclose(found['structure']['overlap'], 1)


def test_logits_of_another_checkpoint_are_refused(again):
  config, path = again
  manifest = predictions.paths(path / 'predictions', 'test[:70]')['manifest']
  sealed = checksums.read(manifest, '')
  checksums.write(
    manifest,
    sealed.record | {'step': 4},
    [manifest.parent / name for name in sealed.files],
  )
  (path / 'analysis' / 'oracle.json').unlink()
  with pytest.raises(ValueError, match=r'is of step 4 and .* of step 8'):
    stages.run(config, path, ('analyze',))


def test_nothing_is_saved_that_is_not_asked_for(again):
  config, path = again
  config.modes = ('train', 'evaluate')
  (path / 'evaluation' / 'val.json').unlink()
  config.eval_sets = ()
  stages.run(config, path, ('evaluate',))
  assert list((path / 'predictions').iterdir()) == []
  with pytest.raises(
    ValueError, match=r'config.save=logits,predictions,labels'
  ):
    stages.run(config, path, ('analyze',))
  config.save = ('labels',)
  stages.run(config, path, ('evaluate',))
  names = {p.name.rpartition('-')[2] for p in (path / 'predictions').iterdir()}
  assert len(names) == 2 and 'labels.npy' in names


def test_mirror_images_are_averaged(again, data_dir):
  config, path = again
  config.update(eval_flip=True, eval_sets=())
  stages.run(config, path, ('evaluate',))
  found = load(stages.open_workdir(config, path))
  plain = values_of(stages.open_workdir(config, path))
  assert found.manifest['flip']
  accuracy = 100 * (found.prediction_GN == found.label_N).mean(1)
  np.testing.assert_allclose(accuracy, [plain[f'val/top1@{m}'] for m in DIMS])


def test_a_set_whose_classes_are_several_of_the_models(
  again, tmp_path, monkeypatch, data_dir
):
  config, path = again
  table = {'line': ['1'], 'round': ['0', '8']}
  (tmp_path / 'shapes.json').write_text(json.dumps(table))
  known = eval_sets.KNOWN | {'shapes': eval_sets._Known('', '', 'shapes')}
  monkeypatch.setattr(eval_sets, 'KNOWN', known)
  monkeypatch.setattr(eval_sets, 'TABLES', tmp_path)
  digits = datasets.open_source('digits', 'test[:70]', data_dir)
  kept = {'line': [], 'round': []}
  for i in range(70):
    example = digits.read(i)
    for name, members in table.items():
      if str(example.label) in members:
        file = tmp_path / 'shapes' / name / f'{i:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(example.data)
        kept[name].append(i)
  config.eval_sets = (f'shapes=folder:{tmp_path / "shapes"}',)
  stages.run(config, path, ('evaluate',))
  workdir = stages.open_workdir(config, path)
  logits_GNC = load(workdir).logits_GNC.astype(np.float32)
  logits_GNC = logits_GNC[:, kept['line'] + kept['round']]
  found_GN = logits_GNC[..., [0, 8]].max(-1) > logits_GNC[..., 1]
  expected_GN = found_GN == np.repeat([0, 1], [*map(len, kept.values())])
  values = values_of(workdir)
  for m, share in zip(DIMS, 100 * expected_GN.mean(1), strict=True):
    # In half precision two may be as large.
    np.testing.assert_allclose(values[f'shapes/top1@{m}'], share, atol=6)
  assert values['shapes/top5@64'] == 100
  text = (workdir.evaluation / 'shapes-classes.csv').read_text()
  assert [line.split(',')[0] for line in text.splitlines()[1:]] == [*table]


def test_a_set_with_several_labels(again, monkeypatch):
  config, path = again
  opened = eval_sets.open_set

  def with_labels(*args, **kwargs):
    found = opened(*args, **kwargs)
    # Every other example has its own label and another's; the rest has none.
    labels = lambda i: (found.source.read(i).label, 0) if i % 2 else ()
    return dataclasses.replace(found, labels=labels)

  monkeypatch.setattr(eval_sets, 'open_set', with_labels)
  config.eval_sets = ('digits@test[:70]',)
  stages.run(config, path, ('evaluate',))
  workdir = stages.open_workdir(config, path)
  found = load(workdir)
  right_GN = found.prediction_GN == found.label_N
  right_GN |= found.prediction_GN == 0
  values = json.loads((workdir.evaluation / 'digits_test_70.json').read_text())
  np.testing.assert_allclose(
    [values['values'][f'top1@{m}'] for m in DIMS],
    100 * right_GN[:, 1::2].mean(1),
  )
  assert values['examples'] == 35
  assert 'loss@8' not in values['values'] and not values['few_shot']


def test_a_set_of_unknown_classes_is_refused(again, tmp_path):
  config, path = again
  (tmp_path / 'other' / 'cat').mkdir(parents=True)
  Image.new('RGB', (8, 8)).save(tmp_path / 'other' / 'cat' / '0.png')
  config.eval_sets = (f'folder:{tmp_path / "other"}',)
  with pytest.raises(ValueError, match=r'no class of the model: cat'):
    stages.run(config, path, ('evaluate',))


def test_sets_that_are_missing_are_named_before_the_training(
  data_dir, tmp_path
):
  config = conftest.shrunk(data_dir)
  config.eval_sets = ('imagenet_a', 'folder:/nowhere', 'digits@test[:70]')
  with pytest.raises(ValueError, match=r'imagenet_a: .*; .*/nowhere') as error:
    stages.run(config, tmp_path / 'run', ('train', 'embed', 'evaluate'))
  assert 'digits' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_sets_of_a_finished_run_are_not_opened(again, monkeypatch):
  config, path = again
  monkeypatch.setattr(eval_sets, 'open_set', None)
  stages.run(config, path, ('train', 'embed', 'evaluate'))
