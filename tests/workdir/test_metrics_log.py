import json
import sys

import numpy as np
import pytest

from mrl_jax.workdir import metrics_log


def write(path, steps, **kwargs):
  with metrics_log.MetricWriter(path, **kwargs) as metrics:
    for step in steps:
      metrics.write(step, {'train/loss': np.float32(step / 2)})


def steps(path):
  return [line['step'] for line in metrics_log.read_metrics(path)]


def test_one_object_a_line(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, (1, 2))
  lines = path.read_text().splitlines()
  assert json.loads(lines[0]) == {'step': 1, 'train/loss': 0.5}
  assert len(lines) == 2
  assert list((tmp_path / 'tensorboard').iterdir())


def test_each_writer_has_a_tensorboard_file_of_its_own(tmp_path):
  for step in range(3):  # Within a second.
    write(tmp_path / 'metrics.jsonl', (step,))
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 3


def test_tensorboard_comes_without_torch(monkeypatch):
  """Importing PyTorch takes seconds, and nothing here uses it."""

  class NoTorch:
    def find_spec(self, name, *_):
      assert name != 'torch'

  for name in [*sys.modules]:
    if name.split('.')[0] in ('tensorboardX', 'torch'):
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setattr(sys, 'meta_path', [NoTorch(), *sys.meta_path])
  metrics_log._import_tensorboard()
  assert 'torch' not in sys.modules and 'tensorboardX' in sys.modules


def test_resuming_drops_what_will_be_written_again(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, (1, 2, 3))
  with metrics_log.MetricWriter(path, resume_step=2) as metrics:
    assert metrics.num_dropped == 1
    metrics.write(3, {'train/loss': 1})
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
  with pytest.raises(ValueError, match='line 1: not a JSON object'):
    metrics_log.read_metrics(path)


def test_not_finite(tmp_path):
  with (
    metrics_log.MetricWriter(tmp_path / 'metrics.jsonl') as metrics,
    pytest.raises(ValueError, match='step 3: not finite'),
  ):
    metrics.write(3, {'val/loss': float('nan')})


def test_a_row_is_replaced(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with metrics_log.MetricWriter(path) as metrics:
    metrics.write(8, {'val/top1@8': 1})
    metrics.write(8, {'val/top1@8': 1, 'val/knn1@5': 1})
    metrics.write(8, {'retrieval/map10@8': 1})
    metrics.write(12, {'val/top1@8': 1, 'val/knn1@5': 1})
    metrics.replace(8, {'val/top1@8': 2, 'val/knn1@6': 2}, prefix='val/knn1')
    metrics.replace(4, {'val/top1@8': 1})
    metrics.replace(4, {'val/top1@8': 2})
    metrics.replace(8, {'analysis/oracle': 2}, prefix='analysis/')
  expected = [
    {'step': 4, 'val/top1@8': 2},
    {'step': 8, 'val/top1@8': 1},
    {'step': 8, 'val/top1@8': 2, 'val/knn1@6': 2},
    {'step': 8, 'retrieval/map10@8': 1},
    {'step': 8, 'analysis/oracle': 2},
    {'step': 12, 'val/top1@8': 1, 'val/knn1@5': 1},
  ]
  assert metrics_log.read_metrics(path) == expected


def test_a_line_is_added_beside_a_training_that_writes(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with metrics_log.MetricWriter(path, resume_step=0) as training:
    training.write(1, {'train/loss': 1})
    write(path, (2,))
    with metrics_log.MetricWriter(path) as other:
      other.replace(1, {'val/top1@8': 1}, prefix='val/')
    with open(path, 'a') as file:
      file.write('{"step": 2, "val/t')  # Another process is killed.
    training.write(3, {'train/loss': 1})
  assert steps(path) == [1, 1, 2, 3]
