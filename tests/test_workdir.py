import json
import os

import pytest

from mrl_jax import workdir as workdir_lib
from mrl_jax.workdir import Workdir

CONFIG = {'batch_size': 8, 'modes': ['train'], 'eval_dims': [3], 'seed': 0}


def finished_training(path, config=CONFIG):
  workdir = Workdir(path, config)
  workdir.write_config()
  (workdir.checkpoints / '12').mkdir(parents=True)
  workdir.mark_finished('train', 1.0)
  return workdir


def test_looking_writes_nothing(tmp_path):
  Workdir(tmp_path / 'a' / 'b', CONFIG)
  assert not list(tmp_path.iterdir())


def test_a_file_is_no_workdir(tmp_path):
  (tmp_path / 'file').write_text('mine')
  for path in (tmp_path / 'file', tmp_path / 'file' / 'below'):
    with pytest.raises(ValueError, match='file'):
      Workdir(path, CONFIG)
  assert (tmp_path / 'file').read_text() == 'mine'


def test_not_writable(tmp_path, monkeypatch):
  # Root may write anywhere, so the answer is given for it.
  monkeypatch.setattr(os, 'access', lambda *_: False)
  with pytest.raises(ValueError, match='not writable'):
    Workdir(tmp_path / 'run', CONFIG)


def test_another_training_config_is_refused(tmp_path):
  finished_training(tmp_path)
  with pytest.raises(ValueError) as error:
    Workdir(tmp_path, {**CONFIG, 'batch_size': 16, 'seed': 1})
  assert 'batch_size is 8 there and 16 now; seed is 0 there' in str(error.value)
  Workdir(tmp_path, {**CONFIG, 'modes': ['embed'], 'eval_dims': [4]})


def test_stages_are_finished_for_their_config_and_step(tmp_path):
  workdir = finished_training(tmp_path)
  assert workdir.is_finished('train')
  assert not workdir.is_finished('evaluate')
  workdir.metrics.write_text('')
  workdir.mark_finished('evaluate', 1.0)
  assert workdir.is_finished('evaluate')
  # Evaluated at other widths, it is to be done again; trained, it is.
  other = Workdir(tmp_path, {**CONFIG, 'eval_dims': [5]})
  assert other.is_finished('train')
  assert not other.is_finished('evaluate')
  (workdir.checkpoints / '24').mkdir()
  assert not workdir.is_finished('evaluate')


def test_a_stage_whose_output_is_gone_is_not_finished(tmp_path):
  workdir = finished_training(tmp_path)
  workdir.embeddings.mkdir()
  workdir.mark_finished('embed', 1.0)
  assert workdir.is_finished('embed')
  workdir.embeddings.rmdir()
  assert not workdir.is_finished('embed')


def test_replacing_is_all_or_nothing(tmp_path):
  path = tmp_path / 'x.txt'
  path.write_text('old')

  def fail():
    with workdir_lib.replacing(path) as temporary:
      temporary.write_text('half')
      raise OSError('disk full')

  with pytest.raises(OSError, match='disk full'):
    fail()
  assert path.read_text() == 'old'
  with workdir_lib.replacing(path) as temporary:
    temporary.write_text('new')
    assert path.read_text() == 'old'
  assert path.read_text() == 'new'
  assert os.listdir(tmp_path) == ['x.txt']


def test_damaged_json_is_named(tmp_path):
  finished_training(tmp_path)
  (tmp_path / 'config.json').write_text('{"batch_size": 8')
  with pytest.raises(ValueError, match=r'config\.json is not JSON'):
    Workdir(tmp_path, CONFIG)


def test_config_is_written_as_json(tmp_path):
  workdir = finished_training(tmp_path)
  assert json.loads((tmp_path / 'config.json').read_text()) == workdir.config
