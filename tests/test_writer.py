import json
import warnings

import numpy as np
import pytest

from mrl_jax import npy
from mrl_jax import writer


def write(path, steps, **kwargs):
  with writer.MetricWriter(path, **kwargs) as metrics:
    for step in steps:
      metrics.write(step, {'train/loss': np.float32(step / 2)})


def steps(path):
  return [line['step'] for line in writer.read_metrics(path)]


def test_one_object_a_line(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, (1, 2))
  lines = path.read_text().splitlines()
  assert json.loads(lines[0]) == {'step': 1, 'train/loss': 0.5}
  assert len(lines) == 2
  assert list((tmp_path / 'tensorboard').iterdir())


def test_resuming_drops_what_will_be_written_again(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, (1, 2, 3))
  write(path, (3,), resume_step=2)
  assert steps(path) == [1, 2, 3]
  write(path, (4,))
  assert steps(path) == [1, 2, 3, 4]


def test_a_line_cut_short_is_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, (1, 2))
  path.write_text(path.read_text()[:-5])
  assert steps(path) == [1]
  write(path, (2,))
  assert steps(path) == [1, 2]
  path.write_text('nonsense\n' + path.read_text())
  with pytest.raises(ValueError, match='line 1 is not JSON'):
    writer.read_metrics(path)


def test_table():
  assert writer.table(('width', 'x'), [(8, 1.0), (16, None)]) == (
    'width     x\n    8  1.00\n   16     -'
  )


def test_progress_in_plain_lines(capsys):
  progress = writer.Progress(
    start_step=0,
    total_steps=5,
    steps_per_epoch=5,
    batch_size=10,
    nesting_dims=(2, 4),
    log_every_steps=2,
  )
  rates = [progress.update(step, (0.5, 0.25)) for step in range(1, 6)]
  assert [rate is not None for rate in rates] == [0, 1, 0, 1, 1]
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3
  assert lines[0].startswith('step 2/5  epoch 0.40  loss @2 0.500 @4 0.250')
  assert lines[0].endswith('left')
  assert 'images/s' in lines[0]


def test_clock():
  assert [writer._clock(s) for s in (5, 65, 3725)] == [
    '0:05', '1:05', '1:02:05',
  ]  # fmt: skip


def test_rows_are_appended(tmp_path):
  path = tmp_path / 'x.npy'
  rows = np.arange(60, dtype=np.float32).reshape(20, 3)
  with npy.RowWriter(path) as file:
    for start in range(0, 20, 7):
      file.append(rows[start : start + 7])
  with warnings.catch_warnings(action='error'):
    np.testing.assert_array_equal(np.load(path, mmap_mode='r'), rows)


def test_rows_of_another_shape(tmp_path):
  with npy.RowWriter(tmp_path / 'x.npy') as file:
    file.append(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r'\(4,\)'):
      file.append(np.zeros((2, 4)))
    file.append(np.zeros((1, 3)))
  assert np.load(tmp_path / 'x.npy').shape == (3, 3)
