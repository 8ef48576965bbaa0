import json
import os
import subprocess
import sys

import pytest

from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

CONFIG = {'batch_size': 8, 'modes': ['train'], 'eval_dims': [3], 'seed': 0}
FREE = ('modes', 'eval_dims')


def open_workdir(path, config=CONFIG):
  return Workdir(path, config, free=FREE)


def test_looking_writes_nothing(tmp_path):
  open_workdir(tmp_path / 'a' / 'b')
  assert not list(tmp_path.iterdir())


def test_a_file_is_no_workdir(tmp_path):
  file = tmp_path / 'mine'
  file.write_text('content')
  with pytest.raises(ValueError, match='mine is a file'):
    open_workdir(file)
  with pytest.raises(ValueError, match='mine is a file'):
    open_workdir(file / 'below')
  (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='a link to nothing'):
    open_workdir(tmp_path / 'link')
  assert file.read_text() == 'content'


def test_brackets_in_the_path(tmp_path):
  with pytest.raises(ValueError, match=r'no \['):
    open_workdir(tmp_path / 'mrl[8]')


def test_not_writable(tmp_path, monkeypatch):
  # Root may write anywhere, so the answer is given for it.
  monkeypatch.setattr(os, 'access', lambda *_: False)
  with pytest.raises(ValueError, match='not writable'):
    open_workdir(tmp_path / 'run')


def test_another_training_config_is_refused(tmp_path):
  workdir = open_workdir(tmp_path)
  workdir.write_config()
  other = {**CONFIG, 'batch_size': 16, 'seed': 1}
  open_workdir(tmp_path, other)  # Nothing hangs on it yet.
  (workdir.checkpoints / '12').mkdir(parents=True)
  with pytest.raises(ValueError) as error:
    open_workdir(tmp_path, other)
  assert 'batch_size is 8 there and 16 now; seed is 0 there' in str(error.value)
  open_workdir(tmp_path, {**CONFIG, 'modes': ['embed'], 'eval_dims': [4]})


def test_a_field_that_was_added_since(tmp_path):
  """A run that lacks it goes on, as what it was trained by; no other does."""
  old = open_workdir(tmp_path)
  old.write_config()
  (old.checkpoints / '12').mkdir(parents=True)
  later = {'slimmable': False}
  config = {**CONFIG, 'slimmable': False}
  new = Workdir(tmp_path, config, free=FREE, later=later)
  assert new.hash_of() == old.hash_of()
  with pytest.raises(ValueError, match='slimmable is False there and True'):
    Workdir(tmp_path, {**config, 'slimmable': True}, free=FREE, later=later)
  with pytest.raises(ValueError, match='slimmable is None there and False'):
    Workdir(tmp_path, config, free=FREE)


def test_fields_added_later_to_a_part_of_the_config(tmp_path):
  begun = {'text': {'objective': 'cosent'}}
  old = Workdir(tmp_path, begun, free=FREE)
  old.write_config()
  (old.checkpoints / '1').mkdir(parents=True)
  later = {'text': {'dropout': -1.0}, 'pairs': {'width': 8}}
  now = {'text': {'objective': 'cosent', 'dropout': -1.0}}
  new = Workdir(tmp_path, now, free=FREE, later=later)
  assert new.hash_of() == old.hash_of()
  with pytest.raises(
    ValueError, match=r'text.dropout is -1.0 there and 0.1 now'
  ):
    Workdir(
      tmp_path,
      {'text': now['text'] | {'dropout': 0.1}},
      free=FREE,
      later=later,
    )


def test_hashes_follow_their_fields(tmp_path):
  first = open_workdir(tmp_path)
  other = open_workdir(tmp_path, {**CONFIG, 'eval_dims': [4]})
  assert first.hash_of() == other.hash_of()
  assert first.hash_of(('eval_dims',)) != other.hash_of(('eval_dims',))
  other = open_workdir(tmp_path, {**CONFIG, 'seed': 1})
  assert first.hash_of() != other.hash_of()


def test_marks_add_up(tmp_path):
  workdir = open_workdir(tmp_path)
  workdir.mark('train', 'a', 1.0, Checkpoint(8, 'x'))
  workdir.mark('embed', 'b', 2.0, Checkpoint(4, 'y'))
  assert {
    name: (m['fingerprint'], m['step'], m['checkpoint'])
    for name, m in workdir.marks().items()
  } == {'train': ('a', 8, 'x'), 'embed': ('b', 4, 'y')}
  assert workdir.stages_after(4) == ['train']
  workdir.unmark('train', 'retrieve')
  assert list(workdir.marks()) == ['embed']


def test_latest_step(tmp_path):
  workdir = open_workdir(tmp_path)
  assert workdir.latest_step() == 0
  for name in ('8', '12', '16.orbax-checkpoint-tmp'):
    (workdir.checkpoints / name).mkdir(parents=True)
  assert workdir.latest_step() == 12


@pytest.mark.parametrize(
  'stage, other, who',
  [
    ('train', 'train', 'is training in it: train'),
    ('embed', 'evaluate', 'is at work in it: embed'),
  ],
)
def test_one_process_at_a_time(tmp_path, stage, other, who):
  first, second = open_workdir(tmp_path), open_workdir(tmp_path)
  match = rf'{who} \(pid {os.getpid()} on '
  with first.locked(stage):
    # The second one to be refused is told, too.
    for _ in range(2):
      with pytest.raises(ValueError, match=match), second.locked(other):
        pass
  with second.locked(other):
    pass


def test_a_stage_runs_beside_a_training(tmp_path):
  workdir = open_workdir(tmp_path)
  with workdir.locked('train'), workdir.locked('evaluate'):
    pass


def test_the_lock_ends_with_its_process(tmp_path):
  program = f"""
import os, signal
from mrl_jax.workdir import Workdir
with Workdir({str(tmp_path)!r}, {{}}).locked('embed'):
  os.kill(os.getpid(), signal.SIGKILL)
"""
  assert subprocess.run([sys.executable, '-c', program]).returncode == -9
  with open_workdir(tmp_path).locked('embed'):
    pass


def save(workdir, step, fingerprints):
  path = workdir.checkpoints / str(step) / 'fingerprints' / 'metadata'
  files.write_json(path, fingerprints)
  return workdir.checkpoint(step)


def test_a_checkpoint_is_known_by_its_arrays(tmp_path):
  workdir = open_workdir(tmp_path)
  first = save(workdir, 8, {'step': 8, 'model.a': 1, 'config': 5})
  assert first == save(workdir, 8, {'step': 8, 'model.a': 1, 'config': 6})
  assert first != save(workdir, 8, {'step': 8, 'model.a': 2, 'config': 5})
  assert first.has_made({'x': 1, **first.as_json()})
  assert first.has_made({'step': 8})  # As they were.
  for record in ({'step': 4}, {'step': 8, 'checkpoint': 'other'}):
    assert not first.has_made(record)


def test_replacing_is_all_or_nothing(tmp_path):
  path = tmp_path / 'x.txt'
  path.write_text('old')

  def fail():
    with files.replacing(path) as temporary:
      temporary.write_text('half')
      raise OSError('disk full')

  with pytest.raises(OSError, match='disk full'):
    fail()
  assert path.read_text() == 'old'
  with files.replacing(path) as temporary:
    temporary.write_text('new')
    assert path.read_text() == 'old'
  assert path.read_text() == 'new'
  assert os.listdir(tmp_path) == ['x.txt']


@pytest.mark.parametrize('content', ['{"batch_size": 8', '', '[1]', '\xff'])
def test_damaged_json_is_named(tmp_path, content):
  (tmp_path / 'config.json').write_text(content, encoding='latin-1')
  with pytest.raises(ValueError, match=r'config\.json is not'):
    open_workdir(tmp_path)


def test_config_is_written_as_json(tmp_path):
  workdir = open_workdir(tmp_path)
  workdir.write_config()
  assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG
