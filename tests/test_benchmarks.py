"""The benchmarks run, on sizes at which they say nothing."""

import json
import sys

import numpy as np
import pytest

from benchmarks import checkpoint
from benchmarks import head
from benchmarks import train_step
from mrl_jax import fused


@pytest.mark.parametrize('peer', [None, 'torch'])
def test_head(monkeypatch, tmp_path, capsys, peer):
  if peer:
    pytest.importorskip('torch')
  monkeypatch.setattr(head, 'WIDTH', 8)
  monkeypatch.setattr(head, 'DIMS', (4, 8))
  monkeypatch.setattr(head, 'SIZES', ((4, 6, 1),))
  monkeypatch.setattr(head, 'CONTRASTIVE', (8, 24, 1))
  path = tmp_path / 'head.json'
  argv = ['head', f'--json={path}', *([f'--peer={peer}'] if peer else [])]
  monkeypatch.setattr(sys, 'argv', argv)
  head.main()
  record = json.loads(path.read_text())
  heads = record['N = 4, D = 8, C = 6, float32']
  assert [row['head'] for row in heads] == ['FF', 'MRL-E', 'MRL']
  assert all(row['forward + backward ms'] > 0 for row in heads)
  assert ('peer / ours' in heads[0]) == bool(peer)
  assert '| MRL-E |' in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['fixed', 'mrl_e', 'mrl'])
def test_the_peer_has_our_loss(kind):
  pytest.importorskip('torch')
  from benchmarks import torch_head

  dims = (8,) if kind == 'fixed' else (4, 8)
  rng = np.random.default_rng(0)
  rows = 12 if kind == 'mrl' else 8
  bias = (2, 6) if kind == 'mrl' else (6,)
  arrays = [
    rng.normal(size=shape).astype(np.float32)
    for shape in ((4, 8), (rows, 6), bias)
  ]
  label_N = rng.integers(0, 6, 4)
  spec = fused.Spec(dims, kind != 'mrl')
  ours = fused.cross_entropy(spec, *arrays, label_N).mean(-1).sum()
  forward, forward_backward = torch_head.steps(kind, dims, *arrays, label_N)
  np.testing.assert_allclose([forward(), forward_backward()], ours, rtol=1e-5)


TINY = ['--encoder=resnet8', '--batch_size=2', '--image_size=8']


def run(monkeypatch, tmp_path, module, *flags):
  path = tmp_path / 'record.json'
  argv = [module.__name__, f'--json={path}', *TINY, *flags]
  monkeypatch.setattr(sys, 'argv', argv)
  module.main()
  record = json.loads(path.read_text())
  return next(rows for rows in record.values() if isinstance(rows, list))


def test_train_step(monkeypatch, tmp_path):
  monkeypatch.setattr(train_step, 'KINDS', {'FF': 'fixed'})
  monkeypatch.setattr(train_step, 'PRODUCT', 64)
  rows = run(monkeypatch, tmp_path, train_step, '--rounds=1')
  assert rows[0]['images/s'] > 0 and rows[0]['x FF'] == 1


def test_checkpoint(monkeypatch, tmp_path):
  monkeypatch.setattr(checkpoint, 'SAVES', 1)
  rows = run(monkeypatch, tmp_path, checkpoint)
  # Parameters and their momentum, in float32.
  assert rows[0]['MB'] > 0.5 and rows[0]['write ms'] > rows[0]['step ms']
