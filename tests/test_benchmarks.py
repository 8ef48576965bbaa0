"""The benchmarks run, on sizes at which they say nothing."""

import contextlib
import dataclasses
import json
import sys

from flax import nnx
import numpy as np
import pytest

from benchmarks import adaptor
from benchmarks import analysis
from benchmarks import checkpoint
from benchmarks import finetune
from benchmarks import head
from benchmarks import input as input_benchmark
from benchmarks import input_measure
from benchmarks import input_peers
from benchmarks import retrieval
from benchmarks import text as text_benchmark
from benchmarks import text_step
from benchmarks import torch_import
from benchmarks import train_step
from mrl_jax.losses import fused
from mrl_jax.models import static_text
from mrl_jax.models import text as models_text
from tests import images
from tests.interop import test_text as text_tests


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
  forward, forward_backward = torch_head.steps(kind, dims, (*arrays, label_N))
  np.testing.assert_allclose([forward(), forward_backward()], ours, rtol=1e-5)


TINY = ['--encoder=resnet8', '--batch_size=2', '--image_size=8']


def run(monkeypatch, tmp_path, module, *flags):
  path = tmp_path / 'record.json'
  argv = [module.__name__, f'--json={path}', *TINY, *flags]
  monkeypatch.setattr(sys, 'argv', argv)
  module.main()
  record = json.loads(path.read_text())
  return [rows for rows in record.values() if isinstance(rows, list)]


def test_train_step(monkeypatch, tmp_path):
  monkeypatch.setattr(train_step, 'KINDS', {'FF': 'fixed'})
  monkeypatch.setattr(train_step, 'PRODUCT', 64)
  images.write_folder(tmp_path / 'images')
  dataset = f'--dataset=folder:{tmp_path / "images"}'
  flags = ['--rounds=1', '--window=2', dataset]
  steps, fed = run(monkeypatch, tmp_path, train_step, *flags)
  assert steps[0]['images/s'] > 0 and steps[0]['x FF'] == 1
  assert fed[0]['of the slower'] > 0


def test_finetune(monkeypatch, tmp_path):
  monkeypatch.setattr(finetune, 'SETTINGS', {'head': ('head',)})
  (rows,) = run(monkeypatch, tmp_path, finetune, '--rounds=1')
  assert [row['trains'] for row in rows] == ['forward alone', 'head']
  assert rows[0]['x forward'] == 1 and rows[1]['ms'] > 0


def test_adaptor(monkeypatch, tmp_path):
  monkeypatch.setattr(adaptor, 'QUERIES', 20)
  monkeypatch.setattr(adaptor, 'SIGNAL', 4)
  path = tmp_path / 'record.json'
  sizes = ['--rows=100', '--width=24', '--classes=3', '--epochs=2']
  argv = ['adaptor', f'--json={path}', *sizes, '--batch_size=50']
  monkeypatch.setattr(sys, 'argv', argv)
  adaptor.main()
  rows = json.loads(path.read_text())['100 x 24, 3 classes, mrl, 2 epochs']
  assert [row['1-NN, %'] for row in rows][1:] == ['PCA', 'nested adaptor']
  assert rows[2]['s'] > 0 and 0 <= rows[2]['@16'] <= 100


def test_analysis(monkeypatch, tmp_path):
  monkeypatch.setattr(analysis, '_BLOCK', 7)
  sizes = ['--examples=40', '--classes=12', '--width=32', '--rounds=1']
  analyses, evaluation = run(monkeypatch, tmp_path, analysis, *sizes)
  assert analyses[-1]['s'] > 0 and analyses[-1]['MiB'] > 0
  assert [row['widths'] for row in evaluation] == ['the last: 1', 'all: 4']


def test_torch_import(monkeypatch, tmp_path):
  pytest.importorskip('torch')
  monkeypatch.setattr(torch_import, 'WAYS', ('load',))
  path = tmp_path / 'record.json'
  argv = ['torch_import', f'--json={path}', '--encoder=resnet8']
  monkeypatch.setattr(sys, 'argv', argv)
  torch_import.main()
  rows = json.loads(path.read_text())['resnet8']
  assert [row['file'] for row in rows] == ['.safetensors', '.pt']
  assert all(row['s'] > 0 for row in rows)


def test_checkpoint(monkeypatch, tmp_path):
  monkeypatch.setattr(checkpoint, 'ROUNDS', 1)
  (rows,) = run(monkeypatch, tmp_path, checkpoint)
  # Parameters and their momentum, in float32.
  assert rows[0]['MB'] > 0.5 and rows[0]['write ms'] > 0


def test_input(monkeypatch, tmp_path):
  monkeypatch.setattr(input_measure, 'BATCH_SIZE', 8)
  monkeypatch.setattr(input_measure, 'SIZE', 16)
  monkeypatch.setattr(input_benchmark, 'RESUME_STEP', 100)
  monkeypatch.setattr(input_benchmark, 'IMAGENET', 100)
  folder = tmp_path / 'images'
  folder.mkdir()
  for i in range(64):
    (folder / f'{i}.jpg').write_bytes(images.encoded(i, image_format='JPEG'))
  path = tmp_path / 'record.json'
  # As if FFCV were there.
  monkeypatch.setattr(input_peers, 'find', lambda _: {'ffcv': 'python'})
  monkeypatch.setattr(input_peers, 'start', lambda *_: contextlib.nullcontext())
  answer = {'rate': 9.0, 'seconds': 0.1, 'level': 99.0, 'change': 1.0}
  monkeypatch.setattr(input_peers, 'ask', lambda *_: answer)
  flags = ['--rounds=1', '--round_batches=1', '--batches=1']
  argv = ['input', f'--images={folder}', f'--json={path}', *flags]
  monkeypatch.setattr(sys, 'argv', argv)
  input_benchmark.main()
  record = json.loads(path.read_text())
  rates = record['Random resized crops']
  assert [row['threads'] for row in rates] == [1, 2] * 9
  assert rates[-1]['input'] == 'ffcv half' and rates[-1]['x jpg'] == 1
  # Crops of the same images.
  levels = [
    row['mean level'] for row in rates[:12] if row['resized by'] == 'host'
  ]
  assert len(levels) == 6 and max(levels) - min(levels) < 12
  (same,) = record['The crops of gridded JPEGs beside those of plain ones']
  assert same['largest difference'] == 0
  (same,) = record['The crops of the step beside those of the host']
  assert same['same labels'] and same['largest difference'] <= 1.001
  resumed = next(x for name, x in record.items() if name.startswith('Resumed'))
  assert resumed[0]['same bytes']


def test_a_peer_that_does_not_run(tmp_path):
  with (
    pytest.raises(SystemExit, match=r'ffcv does not run under .*: '),
    input_peers.start('ffcv', sys.executable, [], tmp_path),
  ):
    pass


def test_retrieval(monkeypatch, tmp_path):
  monkeypatch.setattr(retrieval, 'FUNNELS', {(16, 32): (20, 10)})
  monkeypatch.setattr(retrieval, 'CLASSES', 5)
  monkeypatch.setattr(retrieval, 'METRICS', (20, 100))
  path = tmp_path / 'record.json'
  sizes = ['--rows=300', '--queries=8', '--width=32', '--shortlist=20']
  argv = [
    'retrieval',
    f'--json={path}',
    *sizes,
    '--rounds=1',
    '--memmap_gb=1e-4',
  ]
  monkeypatch.setattr(sys, 'argv', argv)
  retrieval.main()
  record = json.loads(path.read_text())
  rows = record['8 queries, 300 rows of 32']
  assert rows[0]['x in full'] == rows[1]['x exact'] == 1
  assert rows[-1]['search'] == 'funnel 16-32'
  assert record['0.0001 GB on disk'][0]['search / read'] > 0


@pytest.mark.parametrize('peer', [None, 'sentence-transformers'])
def test_text(monkeypatch, tmp_path, peer):
  if peer:
    pytest.importorskip('sentence_transformers')
  monkeypatch.setattr(text_benchmark, 'TOKENS', 40)
  encoder = models_text.create(text_tests.settings(), rngs=nnx.Rngs(0))
  folder = text_tests.written(tmp_path, encoder)
  texts = tmp_path / 'texts.csv'
  texts.write_text('a man,"two, dogs",4.5\n')
  path = tmp_path / 'text.json'
  argv = ['text', f'--json={path}', f'--model={folder}', f'--texts={texts}']
  argv += ['--words=5', '--rounds=1', *([f'--peer={peer}'] if peer else [])]
  monkeypatch.setattr(sys, 'argv', argv)
  text_benchmark.main()
  rows = json.loads(path.read_text())['encode, out, float32']
  assert [row['texts'] for row in rows] == ['texts.csv', '5 words']
  assert rows[0]['number'] == 2
  if peer:
    assert all(float(row['difference']) < 1e-5 for row in rows)


@pytest.mark.parametrize('flag', ['--memory', '--peer=sentence-transformers'])
def test_text_step(monkeypatch, tmp_path, flag):
  if 'peer' in flag:
    pytest.importorskip('sentence_transformers')
    backbone = dataclasses.replace(text_tests.settings().backbone, depth=1)
  else:
    backbone = static_text.Variant(text_tests.text_folders.VOCABULARY, 32)
  monkeypatch.setattr(text_step, 'PARTS', 2)
  monkeypatch.setattr(text_step, 'BATCHES', 1)
  encoder = models_text.create(models_text.Settings(backbone), rngs=nnx.Rngs(0))
  folder = text_tests.written(tmp_path, encoder, special='peer' in flag)
  texts = tmp_path / 'pairs.jsonl'
  pairs = [{'anchor': 'a man', 'positive': f'{"dogs " * i}!'} for i in range(8)]
  texts.write_text('\n'.join(map(json.dumps, pairs)))
  path = tmp_path / 'record.json'
  argv = ['text_step', f'--json={path}', f'--model={folder}', flag]
  argv += [f'--texts={texts}', '--batch=4', '--rounds=1']
  monkeypatch.setattr(sys, 'argv', argv)
  text_step.main()
  rows = json.loads(path.read_text())['rows']
  if flag == '--memory':
    assert [row['batch'] for row in rows] == [4, 8]
    assert all(row['temporary MB'] > 0 for row in rows)
  else:
    assert [row['step'][:4] for row in rows] == ['ours', 'ours', 'sent']
    assert all(row['ms'] > 0 for row in rows)
