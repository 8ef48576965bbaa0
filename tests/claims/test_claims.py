"""Each claim on made runs for which it holds, does not, or cannot be told."""

import json
import pathlib
import shlex
from typing import NamedTuple

from absl import flags
from ml_collections import config_flags
import numpy as np
import pytest

from configs import digits_mrl
import launch  # noqa: F401  (has lists read as the command line does)
from mrl_jax.claims import __main__ as claims
from mrl_jax.claims import accuracy
from mrl_jax.claims import command
from mrl_jax.claims import evidence as evidence_lib
from mrl_jax.claims import language
from mrl_jax.claims import page
from mrl_jax.claims import training
from mrl_jax.claims import use
from mrl_jax.claims import verdict
from mrl_jax.compare import means
from mrl_jax.terminal.tables import Table
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums

DIMS = (2, 8, 64)
MADE = {'step': 1, 'checkpoint': 'made'}
TOP1 = {2: 80.0, 8: 90.0, 64: 92.0}
SETS = {'eval_sets': ('sts:x.csv', 'names=retrieval:x', 'a=retrieval:y')}


class Workdir(NamedTuple):
  """As much of a workdir as claims ask for."""

  path: pathlib.Path
  retrieval: pathlib.Path
  analysis: pathlib.Path
  predictions: pathlib.Path
  metrics: pathlib.Path
  stages: tuple[str, ...] = ('train', 'evaluate')

  def latest_step(self):
    return 1

  def checkpoint(self, step):
    return Checkpoint(step, 'made')

  def marks(self):
    return {name: {} for name in self.stages}


@pytest.fixture
def made(tmp_path):
  """Makes the runs of a kind, one for each seed, with values around these."""

  def make(kind, top1=(), seeds=2, spread=0.1, values=(), **fields):
    runs = []
    for seed in range(seeds):
      config = digits_mrl.get_config()
      config.nesting_dims, config.eval_dims, config.seed = DIMS, (), seed
      config.update(fields)
      path = tmp_path / f'{kind}-{len(list(tmp_path.iterdir()))}'
      path.mkdir()
      shift = spread * (seed - (seeds - 1) / 2)
      found = {f'val/top1@{w}': x + shift for w, x in dict(top1).items()}
      found |= {name: x + shift for name, x in dict(values).items()}
      names = ('retrieval', 'analysis', 'predictions', 'metrics.jsonl')
      workdir = Workdir(path, *(path / name for name in names))
      runs.append(evidence_lib.Run(kind, config, workdir, found))
    return runs

  return make


def judge(find, *groups):
  runs = [run for group in groups for run in group]
  return find(evidence_lib.Evidence(runs))


def test_means_and_their_errors():
  found = means.mean([1.0, 3.0])
  assert (found.mean, found.count) == (2.0, 2)
  np.testing.assert_allclose(found.error, 1.0)
  assert str(found) == '2.00 ± 1.41'
  assert means.mean([1.0]).error == np.inf
  lead, noise = means.difference(found, means.Mean(1.5, 0.0, 2))
  np.testing.assert_allclose((lead, noise), (0.5, 2.0))


@pytest.mark.parametrize(
  'change, spread, holds',
  [(0.4, 0.1, True), (1.0, 0.1, False), (1.0, 2.0, True), (-3, 0.1, True)],
)
def test_one_model_beside_those_trained_alone(made, change, spread, holds):
  alone = [
    made('FF', {w: TOP1[w] + (change if w == 8 else 0)}, spread=spread,
         head='fixed', nesting_dims=(w,)) for w in DIMS
  ]  # fmt: skip
  found = judge(accuracy.separate, made('MRL', TOP1, spread=spread), *alone)
  assert found.holds is holds
  assert len(found.runs) == 8 and len(found.table.rows) == 3


def test_one_seed_decides_nothing(made):
  alone = made('FF', {64: 90.0}, seeds=1, nesting_dims=(64,))
  found = judge(accuracy.separate, made('MRL', TOP1), alone)
  assert found.holds is None and 'two seeds' in found.measured


@pytest.mark.parametrize(
  'behind, holds',
  [((2,), True), ((), False), ((2, 8), False), ((8,), False)],
)
def test_mrl_e_falls_behind_at_the_smallest_alone(made, behind, holds):
  tied = made('MRL-E', {w: x - 5 * (w in behind) for w, x in TOP1.items()})
  assert judge(accuracy.shared, made('MRL', TOP1), tied).holds is holds


@pytest.mark.parametrize('value, holds', [(85, True), (70, False), (99, False)])
def test_widths_between(made, value, holds):
  values = {2: 80, 4: value, 8: 90, 64: 92}
  runs = made('MRL', values={f'val/knn1@{w}': x for w, x in values.items()})
  assert judge(accuracy.between, runs).holds is holds


@pytest.mark.parametrize('lead, holds', [(9, True), (-1, False)])
def test_baselines(made, lead, holds):
  knn1 = {f'val/knn1@{w}': x for w, x in TOP1.items()}
  full = made('FF', TOP1, nesting_dims=(64,))
  for run in full:
    run.workdir.analysis.mkdir()
    columns = {
      name: [80 - lead, 90 - lead / 2, 91.9] for name in ('random dims', 'SVD')
    }
    record = {'dims': DIMS, 'knn1': columns} | MADE
    checksums.write(run.workdir.analysis / 'baselines.json', record)
  slim = made('Slim', values={f'val/knn1@{w}': 40.0 + w / 2 for w in DIMS})
  found = judge(accuracy.baselines, made('MRL', values=knn1), full, slim)
  assert found.holds is holds
  assert judge(accuracy.baselines, made('MRL', values=knn1)).holds is None


@pytest.mark.parametrize(
  'cascade, dim, holds',
  [(91.8, 20.0, True), (88.0, 20.0, False), (92.0, 40.0, False)],
)
def test_cascade(made, cascade, dim, holds):
  values = {
    'analysis/cascade_accuracy@64': cascade,
    'analysis/cascade_dim@64': dim,
  }
  runs = made('MRL', TOP1, values=values)
  assert judge(use.cascade, runs).holds is holds
  assert judge(use.cascade, made('MRL', TOP1)).holds is None


@pytest.mark.parametrize('overlap, holds', [(0.6, True), (0.3, False)])
def test_saturation(made, overlap, holds):
  runs = made('MRL', values={f'val/knn1@{w}': 90.0 for w in DIMS})
  for run in runs:
    run.workdir.analysis.mkdir()
    rows = [[1.0, 0.2, 0.1], [0.2, 1.0, overlap], [0.1, overlap, 1.0]]
    record = {'dims': DIMS, 'overlap': rows} | MADE
    checksums.write(run.workdir.analysis / 'structure.json', record)
  found = judge(use.saturation, runs)
  assert found.holds is holds and '8 and 64' in found.measured


def test_a_record_counts_if_it_is_whole_and_of_this_checkpoint(made):
  (run,) = made('MRL', TOP1, seeds=1)
  folder = run.workdir.analysis
  assert run.record(folder, 'a.json') is None
  folder.mkdir()
  checksums.write(folder / 'a.json', {'x': 1, **MADE})
  assert run.record(folder, 'a.json')['x'] == 1
  damaged = (folder / 'a.json').read_text().replace('"x": 1', '"x": 2')
  (folder / 'a.json').write_text(damaged)
  with pytest.raises(ValueError, match=r'a\.json'):
    run.record(folder, 'a.json')
  checksums.write(folder / 'a.json', {'x': 1, **MADE, 'checkpoint': 'other'})
  assert run.record(folder, 'a.json') is None


def test_fewer_classes_need_fewer_dims(made, monkeypatch):
  """Width 2 tells classes 0 and 1 from others, width 8 tells all."""
  label_N = np.arange(60) % 6
  logits_GNC = np.zeros((3, 60, 6), np.float16)
  logits_GNC[0, np.arange(60), np.minimum(label_N, 2)] = 1
  logits_GNC[1:, np.arange(60), label_N] = 1
  runs = made('MRL', TOP1)
  for run in runs:
    run.workdir.predictions.mkdir()
    (run.workdir.predictions / 'test-logits.npy').touch()

  class Saved(NamedTuple):
    logits_GNC: np.ndarray
    label_N: np.ndarray

  load = lambda *_: Saved(logits_GNC, label_N)
  monkeypatch.setattr(use.predictions, 'load', load)
  found = judge(use.classes, runs)
  assert found.holds is True
  needed = dict(found.table.rows)
  assert [*needed] == [2, 3, 6] and 2 < needed[2] < needed[3] < needed[6] == 8


@pytest.mark.parametrize('wide, holds', [(91.8, True), (90.0, False)])
def test_weights_for_the_smallest(made, wide, holds):
  boosted = made('MRL', TOP1 | {64: wide}, nesting_weights=(2.0, 1.0, 1.0))
  assert judge(training.boost, made('MRL', TOP1), boosted).holds is holds


@pytest.mark.parametrize(
  'tops, holds',
  [((60, 75, 89), True), ((75, 60, 89), False), ((50, 60, 70), False)],
)
def test_fine_tuning(made, tops, holds):
  parts = (('head',), ('layer3.0.conv2', 'head'), ('layer3.0', 'head'))
  runs = [
    made('MRL', {w: x * top / 90 for w, x in TOP1.items()}, init_from='there',
         trainable=part) for part, top in zip(parts, tops, strict=True)
  ]  # fmt: skip
  found = judge(training.tuned, made('MRL', TOP1), *runs[::-1])
  assert found.holds is holds
  assert [row[0] for row in found.table.rows[:3]] == list(map(', '.join, parts))


@pytest.mark.parametrize('rate, holds', [(99.0, True), (80.0, False)])
def test_speed(made, rate, holds):
  nested, fixed = made('MRL', TOP1), made('FF', TOP1, nesting_dims=(64,))
  for runs, value in ((nested, rate), (fixed, 100.0)):
    for run in runs:
      lines = [
        json.dumps({'step': step, 'train/images_per_second': x}) + '\n'
        for step, x in enumerate((1.0, value, value + 0.1))
      ]
      run.workdir.metrics.write_text(''.join(lines))
  found = judge(training.speed, nested, fixed)
  assert found.holds is holds and '3 heads over one' in found.measured


def test_runs_of_another_dataset_are_not_compared(made):
  """Runs that are there to be timed have no say in the accuracies."""
  nested, fixed = made('MRL', TOP1), made('FF', TOP1, nesting_dims=(64,))
  timed = made('MRL', {64: 10.0}, encoder='resnet18')
  found = evidence_lib.Evidence([*timed, *nested, *fixed])
  assert found.plain('MRL') == nested and found.runs[:2] == timed
  assert [*found.fixed()] == [64]
  assert evidence_lib.Evidence([]).plain('MRL') == []


@pytest.mark.parametrize('share, holds', [(0.99, True), (0.95, False)])
def test_texts_keep_most_at_a_twelfth(made, share, holds):
  values = {'sts/spearman@384': 80.0, 'sts/spearman@32': 80 * share}
  runs = made('texts', values=values, encoder='pretrained', **SETS)
  assert judge(language.kept, runs).holds is holds
  assert judge(language.kept, made('texts', values=values)).holds is None


@pytest.mark.parametrize('cut, holds', [(25.0, True), (35.0, False)])
def test_small_towers_are_ahead_of_cut_ones(made, cut, holds):
  """By the first of a config's sets, not the first by name."""
  metric = 'names/t2i_recall10'
  values = {f'{metric}@2': 40.0, f'{metric}@64': 45.0, 'a/t2i_recall10@2': 0}
  nested = made('pairs', values=values, **SETS)
  values = {f'{metric}@2': cut, f'{metric}@64': 45.0, 'a/t2i_recall10@2': 0}
  alone = made('pairs', values=values, nesting_dims=(64,), **SETS)
  assert judge(language.towers, nested, alone).holds is holds


def test_the_command(finished, tmp_path, capsys):
  """One run decides nothing, and the page says what is lacking."""
  _, workdir = finished
  (tmp_path / 'run').symlink_to(workdir.path)
  claims.main([str(tmp_path)])
  out = capsys.readouterr().out
  assert out.count('not decided') == 15 and 'needs two seeds' in out
  rows = json.loads((tmp_path / 'claims.json').read_text())
  assert [row['number'] for row in rows] == [*range(1, 16)]
  assert {row['verdict'] for row in rows} == {'not decided'}
  assert 'seeds' in rows[0]['measured'] and not rows[0]['workdirs']
  text = (tmp_path / 'claims.html').read_text()
  for row in rows:
    assert f'{row["number"]}. ' in text
  assert (tmp_path / 'claims.md').read_text().startswith('| # | claim |')


def test_a_folder_without_runs(tmp_path):
  with pytest.raises(ValueError, match='has no finished runs'):
    claims.judge(tmp_path)


def test_the_page_has_what_was_measured_and_by_which_runs(made, tmp_path):
  runs = made('MRL', TOP1)
  found = verdict.Finding(False, 'All 3 <widths>.', runs, Table(('w',), [(8,)]))
  judged = [page.Judged(1, accuracy.SEPARATE, found)]
  text = page.render(judged, tmp_path)
  for part in (
    'Does not hold. All 3 &lt;widths&gt;.',
    runs[0].name,
    'Rule: At',
  ):
    assert part in text
  (row,) = page.records(judged)
  assert row['workdirs'] == [str(run.workdir.path) for run in runs]
  assert page.table(judged).rows[0][-1] == 'does not hold'


@pytest.mark.filterwarnings('ignore:the load_module')
@pytest.mark.parametrize(
  'changed',
  [
    {},
    {'trainable': ('layer3.0.conv2', 'head'), 'nesting_weights': ('8boost',)},
    {'eval_dims': (), 'slimmable': True, 'peak_epoch': 0.5},
    {'eval_sets': ("a=folder:it's,here", 'b'), 'dataset': 'folder:/a b'},
    {'retrieval.k': 7, 'init_from': '/there', 'few_shot.shots': (3,)},
  ],
)
def test_the_command_of_a_run_has_its_config(made, changed):
  run, _ = made('MRL')
  with run.config.ignore_type():
    run.config.update_from_flattened_dict(changed)
  line = shlex.split(command.of(run))
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=line[1:]
  )
  flags.DEFINE_string('mode', '', '', flag_values=values)
  values(line[1:])
  assert line[:2] == ['python', 'launch.py'] and values.mode == 'train,evaluate'
  as_record = lambda config: json.loads(config.to_json())
  assert as_record(values.config) == as_record(run.config)


@pytest.mark.parametrize('name', ['mine', 'resnet50_ff', 'fixed_feature'])
def test_a_config_that_is_in_no_file_has_no_command(made, name):
  run, _ = made('MRL', name=name)
  assert command.of(run) == ''
