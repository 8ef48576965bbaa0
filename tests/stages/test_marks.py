"""Marks say what is on disk: after kills, beside a training, and after it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from mrl_jax import stages
from mrl_jax.stages import embed
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import metrics_log
from mrl_jax.workdir import Workdir
from tests.stages import kills


@pytest.fixture
def copy(finished, tmp_path):
  """A copy of the finished workdir."""
  _, workdir = finished
  return shutil.copytree(workdir.path, tmp_path / 'copy')


@pytest.fixture(autouse=True)
def still_clock(monkeypatch):
  monkeypatch.setattr(kills.neighbors, 'time', kills.STILL)


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(fields)
  return config


def kill(config, path, stage, at):
  """Whether the stage got as far as its operation `at`, counted from 1."""
  try:
    with kills.Death(path, at):
      stages.run(config, path, (stage,))
  except kills.Killed:
    return True
  return False


@pytest.mark.parametrize(
  'stage, fields, operations',
  [
    ('retrieve', {'retrieval.k': 5}, (4, 30)),
    ('evaluate', {'knn': 3}, (5, 12)),
    ('embed', {'checkpoint': 'best'}, (4, 9)),
  ],
)
def test_killed_under_another_config(
  finished, copy, tmp_path, stage, fields, operations
):
  """Then, with the config of before, it leaves what it had left."""
  config, _ = finished
  shutil.rmtree(copy / 'retrieval')
  stages.run(config, copy, ('retrieve',))  # By the clock that stands still.
  with Checkpoints(copy / 'checkpoints') as checkpoints:
    checkpoints.set_score(4, 100.0)
  whole = shutil.copytree(copy, tmp_path / 'whole')
  for at in operations:
    shutil.rmtree(copy)
    shutil.copytree(whole, copy)
    assert kill(changed(config, **fields), copy, stage, at)
    stages.run(config, copy, (stage,))
    assert kills.differences(copy, whole) == []


def test_fewer_neighbors_then_as_many_as_before(finished, copy):
  config, _ = finished
  assert kill(changed(config, **{'retrieval.k': 5}), copy, 'retrieve', 20)
  stages.run(config, copy, ('retrieve',))
  with np.load(copy / 'retrieval' / '8.npz') as file:
    assert file['ids'].shape[1] == 20


@pytest.mark.parametrize('stage', ['evaluate', 'retrieve'])
def test_killed_between_row_and_mark(finished, copy, monkeypatch, stage):
  config, _ = finished
  before = metrics_log.read_metrics(copy / 'metrics.jsonl')
  (copy / 'stages.json').write_text('{}')

  def killed(*args):
    raise kills.Killed

  modes = ('embed', stage)
  with monkeypatch.context() as patch:
    stages.run(config, copy, ('embed',))
    patch.setattr(Workdir, 'mark', killed)
    with pytest.raises(kills.Killed):
      stages.run(config, copy, (stage,))
  stages.run(config, copy, modes)
  assert metrics_log.read_metrics(copy / 'metrics.jsonl') == before


def test_a_stage_reads_one_checkpoint_beside_a_training(
  finished, copy, tmp_path, monkeypatch
):
  """Another appears after its first stage: all of them are of the first."""
  config, _ = finished
  (copy / 'checkpoints' / '8').rename(tmp_path / '8')
  embed_run = embed.run

  def run(*args):
    embed_run(*args)
    if (tmp_path / '8').exists():
      (tmp_path / '8').rename(copy / 'checkpoints' / '8')

  stage = stages.STAGES['embed']
  monkeypatch.setitem(
    stages.STAGES, 'embed', dataclasses.replace(stage, run=run)
  )
  stages.run(config, copy, ('evaluate', 'retrieve'))
  workdir = stages.open_workdir(config, copy)
  marks = workdir.marks()
  four = workdir.checkpoint(4).as_json()
  for name in ('embed', 'evaluate', 'retrieve'):
    assert {key: marks[name][key] for key in four} == four
    assert not stages.is_finished(name, config, workdir)
  for name in ('evaluation/val', 'retrieval/retrieval'):
    record = json.loads((copy / f'{name}.json').read_text())
    assert {key: record[key] for key in four} == four
  with pytest.raises(ValueError, match='run --mode=evaluate first'):
    stages.run(config, copy, ('report',))
  stages.run(config, copy, ('evaluate', 'retrieve'))
  assert stages.is_finished('evaluate', config, workdir)


def test_the_best_checkpoint_is_the_one_marked(finished, copy):
  config, _ = finished
  with Checkpoints(copy / 'checkpoints') as checkpoints:
    checkpoints.set_score(4, 100.0)
    assert checkpoints.best_step == 4
  best = changed(config, checkpoint='best')

  def is_finished(config):
    workdir = stages.open_workdir(config, copy)
    return stages.is_finished('embed', config, workdir)

  assert is_finished(config) and not is_finished(best)
  stages.run(best, copy, ('embed',))
  assert stages.open_workdir(best, copy).marks()['embed']['step'] == 4
  assert is_finished(best) and not is_finished(config)


def test_the_newest_checkpoint_deleted_and_trained_again(
  finished, copy, capsys
):
  config, _ = finished
  rows = metrics_log.read_metrics(copy / 'metrics.jsonl')
  shutil.rmtree(copy / 'checkpoints' / '8')
  stages.run(config, copy, ('train',))
  later = sum(row['step'] > 4 for row in rows)
  said = f'train: {later} rows of metrics.jsonl are of'
  assert said in capsys.readouterr().out
  workdir = stages.open_workdir(config, copy)
  assert list(workdir.marks()) == ['train']
  with pytest.raises(ValueError, match='run --mode=evaluate first'):
    stages.run(config, copy, ('report',))
  stages.run(config, copy, ('evaluate', 'retrieve'))
  again = metrics_log.read_metrics(copy / 'metrics.jsonl')
  kept = [{*row} for row in rows if 'analysis/oracle' not in row]
  assert [{*row} for row in again] == kept


def test_another_checkpoint_of_the_same_step(finished, copy):
  """The same step, with other arrays in it."""
  config, _ = finished
  path = copy / 'checkpoints/8/fingerprints/metadata'
  saved = json.loads(path.read_text())
  name = next(name for name in saved if name.startswith('model.'))
  path.write_text(json.dumps({**saved, name: saved[name] ^ 1}))
  workdir = stages.open_workdir(config, copy)
  for stage in ('train', 'embed', 'evaluate', 'retrieve', 'report'):
    assert not stages.is_finished(stage, config, workdir)


def test_an_evaluation_whose_row_is_gone(finished, copy):
  config, _ = finished
  path = copy / 'metrics.jsonl'
  rows = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(row for row in rows if 'val/knn1' not in row))
  with pytest.raises(ValueError, match='no evaluation of step 8: delete'):
    stages.run(config, copy, ('export',))


def test_a_stage_is_refused_beside_another(finished, copy):
  """But not beside a training."""
  config, workdir = finished
  (copy / 'retrieval' / 'retrieval.json').unlink()
  other = stages.open_workdir(config, copy)
  with (
    other.locked('evaluate'),
    pytest.raises(ValueError, match=r'is at work in it: evaluate \(pid'),
  ):
    stages.run(config, copy, ('retrieve',))
  assert 'retrieve' in other.marks()  # Nothing was touched.
  with other.locked('train'):
    stages.run(config, copy, ('retrieve',))
  assert other.marks().keys() == workdir.marks().keys()
