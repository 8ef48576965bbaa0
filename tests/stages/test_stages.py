"""`digits_mrl`, shrunk, through all stages; and what each refuses."""

import gc
import itertools
import json
import os
import re
import shutil
import signal

import chex
import jax
import numpy as np
from plotly.offline import get_plotlyjs
import pytest

from mrl_jax import losses
from mrl_jax import retrieval
from mrl_jax import stages
from mrl_jax.models import heads
from mrl_jax.retrieval import metrics
from mrl_jax.stages import build
from mrl_jax.training import inference
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import metrics_log
from tests import images

ALL = ('train', 'evaluate', 'embed', 'retrieve', 'analyze', 'report')
WIDTHS = (2, 5, 8, 64)


def values_of(workdir):
  """The last value of every metric."""
  values = {}
  for record in metrics_log.read_metrics(workdir.metrics):
    values |= record
  return values


def test_metrics_are_complete(finished):
  _, workdir = finished
  values = values_of(workdir)
  expected = {
    *(f'train/loss@{dim}' for dim in (2, 8, 64)),
    *(f'val/{m}@{dim}' for m in ('loss', 'top1', 'top5') for dim in (2, 8, 64)),
    *(f'val/knn1@{dim}' for dim in WIDTHS),
    *(f'retrieval/map10@{dim}' for dim in WIDTHS),
    'retrieval/map10@2-64',
    'retrieval/map10@2-8-64',
    'train/loss',
    'train/grad_norm',
    'train/learning_rate',
    'train/images_per_second',
    'train/input_wait',
  }
  assert expected <= values.keys()
  assert 'val/top1@5' not in values  # MRL has no classifier there.
  steps = [
    record['step'] for record in metrics_log.read_metrics(workdir.metrics)
  ]
  assert steps == sorted(steps) and steps[-1] == 8


def test_it_learns(finished):
  _, workdir = finished
  losses = [
    record['train/loss']
    for record in metrics_log.read_metrics(workdir.metrics)
    if 'train/loss' in record
  ]
  assert losses[-1] < losses[0] - 0.2


def test_the_plain_loss_trains_to_the_same_curve(
  finished, tmp_path, monkeypatch
):
  def plain(head, embedding_ND, label_N, **kwargs):
    return losses.matryoshka_cross_entropy(
      head(embedding_ND), label_N, **kwargs
    )

  monkeypatch.setattr(heads.MatryoshkaHead, 'loss', plain)
  config, workdir = finished
  stages.run(config, tmp_path, ('train',))
  curves = [
    [
      [record[f'train/loss@{dim}'] for dim in config.nesting_dims]
      for record in metrics_log.read_metrics(path)
      if 'train/loss' in record
    ]
    for path in (workdir.metrics, tmp_path / 'metrics.jsonl')
  ]
  np.testing.assert_allclose(*curves, rtol=1e-4)


def test_embeddings_and_manifest(finished):
  config, workdir = finished
  embedding_ND, label_N, manifest = embeddings.load(
    workdir.embeddings, config.train_split
  )
  assert (embedding_ND.shape, embedding_ND.dtype) == ((264, 64), np.float32)
  assert (label_N.shape, label_N.dtype) == ((264,), np.int32)
  assert isinstance(embedding_ND, np.memmap)
  assert (embedding_ND >= 0).all()  # After the last ReLU.
  assert manifest['nesting_dims'] == [2, 8, 64]
  assert manifest['step'] == 8
  assert not manifest['normalised']
  expected = {
    path
    for split in (config.train_split, config.eval_split)
    for path in embeddings.paths(workdir.embeddings, split)
  }
  assert set(workdir.embeddings.iterdir()) == expected


def test_embeddings_are_those_of_the_logits(finished):
  """The exported prefixes times the head give the evaluation's top-1."""
  config, workdir = finished
  embedding_ND, label_N, _ = embeddings.load(
    workdir.embeddings, config.eval_split
  )
  params = restored(config, workdir.path, 8).params['head']
  kernel, bias = params['kernel'], params['bias']
  offset = 0
  for g, m in enumerate((2, 8, 64)):
    logits = embedding_ND[:, :m] @ kernel[offset : offset + m] + bias[g]
    offset += m
    np.testing.assert_allclose(
      100 * (logits.argmax(1) == label_N).mean(),
      values_of(workdir)[f'val/top1@{m}'],
      rtol=1e-6,
    )


def test_retrieval_files(finished):
  config, workdir = finished
  database_MD, database_label_M, _ = embeddings.load(
    workdir.embeddings, config.train_split
  )
  query_QD, query_label_Q, _ = embeddings.load(
    workdir.embeddings, config.eval_split
  )
  with np.load(workdir.retrieval / '8.npz', allow_pickle=False) as file:
    ids_QK, scores_QK = file['ids'], file['scores']
  expected = retrieval.search(query_QD, database_MD, 20, dim=8)
  np.testing.assert_allclose(scores_QK, expected.scores_QK, atol=1e-6)
  # Where two scores differ in the last bit only, either may come first.
  apart_QK = np.abs(np.diff(scores_QK, append=-1)) > 1e-6
  apart_QK &= np.abs(np.diff(scores_QK, prepend=2)) > 1e-6
  np.testing.assert_array_equal(ids_QK[apart_QK], expected.ids_QK[apart_QK])
  assert apart_QK.mean() > 0.9
  record = json.loads((workdir.retrieval / 'retrieval.json').read_text())
  map10 = metrics.mean_average_precision(
    database_label_M[ids_QK], query_label_Q, 10
  )
  np.testing.assert_allclose(
    record['methods']['8']['metrics']['map10'], 100 * map10
  )
  # 1-NN in the evaluation is top-1 in the retrieval.
  values = values_of(workdir)
  for dim in WIDTHS:
    assert values[f'val/knn1@{dim}'] == values[f'retrieval/top1@{dim}']
  funnel = record['methods']['2-8-64']
  assert funnel['dims'] == [2, 8, 64]
  assert funnel['shortlists'] == [40, 20, 10]


def test_report_is_self_contained(finished):
  _, workdir = finished
  page = (workdir.report / 'index.html').read_text()
  assert len(page) < 10e6
  # Plotly's own script aside, which speaks of addresses that it does not open.
  page = page.replace(get_plotlyjs(), '')
  links = re.findall(r'(?:src|href)="([^"]*)"', page)
  assert links and all(link.startswith(('#', 'data:')) for link in links)
  assert page.count('class="plot') == 13
  for dim in WIDTHS:
    value = values_of(workdir)[f'val/knn1@{dim}']
    assert f'<td>{value:.2f}</td>' in page
  assert {path.name for path in workdir.report.iterdir()} == {
    'index.html', 'accuracy.svg', 'retrieval.svg', 'training.svg',
    'cascade.svg', 'oracle.svg', 'calibration.svg', 'structure.svg',
    'few_shot.svg', 'saliency.png',
  }  # fmt: skip


def test_finished_stages_are_skipped(finished, capsys):
  config, workdir = finished
  before = workdir.metrics.read_bytes()
  stages.run(config, workdir.path, ALL)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(ALL)
  for stage, line in zip(ALL, lines, strict=True):
    assert line.startswith(f'{stage}: already finished')
  assert workdir.metrics.read_bytes() == before


def restored(config, path, step):
  """The whole state of a checkpoint."""
  optimizer, _ = build.optimizer(config, 1)
  _, like = state_lib.create(build.model(config, 10), optimizer)
  with Checkpoints(path / 'checkpoints') as checkpoints:
    return jax.device_get(checkpoints.restore(like, step))


def training_records(path):
  """What metrics.jsonl says of training, but for the speed."""
  records = metrics_log.read_metrics(path / 'metrics.jsonl')
  for record in records:
    record.pop('train/images_per_second', None)
    record.pop('train/input_wait', None)
  return records


@pytest.mark.parametrize('where', ['evaluation', 'checkpoint'])
def test_a_stopped_run_goes_on_to_the_same_bits(
  config, tmp_path, monkeypatch, capsys, where
):
  config.num_epochs = 3
  stages.run(config, tmp_path / 'whole', ('train',))
  calls = []

  def stop_at_the_second(function):
    def run(*args):
      calls.append(function)
      if len(calls) == 2:
        raise KeyboardInterrupt
      return function(*args)

    return run

  with monkeypatch.context() as patch:
    if where == 'evaluation':
      patch.setattr(
        inference, 'evaluate', stop_at_the_second(inference.evaluate)
      )
    else:
      patch.setattr(Checkpoints, 'save', stop_at_the_second(Checkpoints.save))
    with pytest.raises(KeyboardInterrupt):
      stages.run(config, tmp_path / 'stopped', ('train',))
  stages.run(config, tmp_path / 'stopped', ('embed',))
  said = 'step 4 is of a training not finished yet'
  assert said in capsys.readouterr().out
  stages.run(config, tmp_path / 'stopped', ('train', 'embed'))
  assert said not in capsys.readouterr().out
  chex.assert_trees_all_equal(
    *(restored(config, tmp_path / name, 12) for name in ('whole', 'stopped'))
  )
  assert training_records(tmp_path / 'whole') == training_records(
    tmp_path / 'stopped'
  )


@pytest.mark.parametrize('stop', [3, 100])
def test_a_profile_of_some_steps(config, tmp_path, stop):
  config.num_epochs = 2
  config.profile = f'2:{stop}'
  stages.run(config, tmp_path, ('train',))
  traces = list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert len(traces) == 1 and traces[0].stat().st_size


def interrupt_in_a_callback():
  """Ctrl-C while JAX clears up, where a KeyboardInterrupt would be lost."""

  def callback(phase, info):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)

  gc.callbacks.append(callback)
  gc.collect()


@pytest.mark.parametrize(
  'name, step', [('SIGTERM', 2), ('SIGTERM', 4), ('SIGINT', 3), ('SIGINT', 8)]
)
def test_a_signal_saves_within_a_step(
  finished, tmp_path, monkeypatch, name, step
):
  config, workdir = finished
  make_train_step = train_step_lib.make_train_step
  number = getattr(signal, name)
  handler = signal.getsignal(number)

  def terminated(*args, **kwargs):
    train_step = make_train_step(*args, **kwargs)
    calls = itertools.count(1)

    def run(*args):
      if next(calls) == step:
        if name == 'SIGINT':
          interrupt_in_a_callback()
        else:
          os.kill(os.getpid(), number)
      return train_step(*args)

    return run

  with monkeypatch.context() as patch:
    patch.setattr(train_step_lib, 'make_train_step', terminated)
    ended = SystemExit if name == 'SIGTERM' else KeyboardInterrupt
    with pytest.raises(ended, match='143' if name == 'SIGTERM' else None):
      stages.run(config, tmp_path, ('train', 'embed'))
  stopped = stages.open_workdir(config, tmp_path)
  assert stopped.latest_step() == step
  # The handler that was there before is there again.
  assert signal.getsignal(number) == handler
  stages.run(config, tmp_path, ('train',))
  chex.assert_trees_all_equal(
    restored(config, tmp_path, 8), restored(config, workdir.path, 8)
  )
  # Step 4 ends an epoch: its evaluation was left to the second start.
  validated = [
    record['step']
    for record in metrics_log.read_metrics(stopped.metrics)
    if 'val/top1@64' in record
  ]
  assert validated == [4, 8]
  # The best is the best also where it was measured by the second start.
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    assert checkpoints.best_step == 8
  for step in (4, 8):
    score = f'checkpoints/{step}/metrics/metrics'
    if (tmp_path / score).exists():
      text = (tmp_path / score).read_text()
      assert json.loads(text) == json.loads((workdir.path / score).read_text())


def test_a_loss_that_is_not_finite_stops_training(config, tmp_path):
  # From step 5 on the learning rate is beyond all bounds.
  config.update(
    schedule='step', step_epochs=(1.25,), step_factor=1e30, num_epochs=3
  )
  with pytest.raises(ValueError, match=r'inf at step 6: .* of step 4'):
    stages.run(config, tmp_path, ('train',))
  workdir = stages.open_workdir(config, tmp_path)
  assert workdir.latest_step() == 4
  assert not stages.is_finished('train', config, workdir)
  for leaf in jax.tree.leaves(restored(config, tmp_path, 4)):
    assert np.isfinite(leaf).all()


def test_tiles_need_an_accelerator(config, tmp_path):
  config.loss_kernel = 'pallas'
  with pytest.raises(ValueError, match='on 1 cpu devices: must be one GPU'):
    stages.run(config, tmp_path / 'run', ('train',))
  assert not (tmp_path / 'run').exists()


def test_tiles_are_not_split_over_a_mesh(config, monkeypatch, tmp_path):
  config.loss_kernel = 'pallas'
  config.mesh.data = 2
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  with pytest.raises(ValueError, match='on 2 tpu devices: must be one GPU'):
    stages.run(config, tmp_path / 'run', ('train',))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'stage, missing',
  [
    ('evaluate', 'train'),
    ('embed', 'train'),
    ('retrieve', 'embed'),
    ('analyze', 'evaluate'),
    ('report', 'evaluate'),
  ],
)
def test_stages_out_of_order(config, tmp_path, stage, missing):
  with pytest.raises(ValueError, match=f'run --mode={missing} first'):
    stages.run(config, tmp_path / 'run', (stage,))
  assert not (tmp_path / 'run').exists()


def test_unknown_stage(config, tmp_path):
  with pytest.raises(ValueError, match="'tarin': must be one of"):
    stages.run(config, tmp_path / 'run', ('train', 'tarin'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('stage', ['train', 'evaluate', 'report'])
@pytest.mark.parametrize('record', ['config.json', 'checkpoint'])
def test_another_config_is_refused(finished, tmp_path, stage, record):
  config, workdir = finished
  path = shutil.copytree(workdir.path, tmp_path / 'copy')
  if record == 'checkpoint':
    (path / 'config.json').unlink()
  before = contents(path)
  other = config.copy_and_resolve_references()
  other.learning_rate = 0.5
  match = 'learning_rate is 0.05 there and 0.5 now'
  with pytest.raises(ValueError, match=match):
    stages.run(other, path, (stage,))
  assert contents(path) == before


def contents(path):
  return {p: p.read_bytes() for p in path.rglob('*') if p.is_file()}


def test_other_widths_are_evaluated_again(finished):
  config, workdir = finished
  other = config.copy_and_resolve_references()
  other.eval_dims = (30,)
  workdir = stages.open_workdir(other, workdir.path)
  finished = {s: stages.is_finished(s, other, workdir) for s in ALL}
  assert finished == {
    'train': True,
    'embed': True,
    'evaluate': False,
    'retrieve': False,
    'analyze': True,
    'report': True,  # Until those two have run.
  }


def test_a_stage_whose_file_is_gone_runs_again(finished, tmp_path, capsys):
  config, workdir = finished
  path = shutil.copytree(workdir.path, tmp_path / 'copy')
  gone = next((path / 'embeddings').glob('test*-x.npy'))
  expected = gone.read_bytes()
  gone.unlink()
  with pytest.raises(ValueError, match='run --mode=embed first'):
    (path / 'retrieval' / 'retrieval.json').unlink()
    stages.run(config, path, ('retrieve',))
  stages.run(config, path, ('embed', 'retrieve'))
  assert gone.read_bytes() == expected
  assert 'embed: finished' in capsys.readouterr().out


def test_the_report_follows_what_it_shows(config, tmp_path):
  config.num_epochs = 1
  config.peak_epoch = 0.5
  stages.run(config, tmp_path, ('train', 'evaluate', 'report'))
  page = tmp_path / 'report' / 'index.html'
  assert 'mAP' not in page.read_text()
  stages.run(config, tmp_path, ('retrieve', 'report'))
  assert 'mAP' in page.read_text()


def test_plan_is_the_papers_funnel():
  from mrl_jax import nesting
  from mrl_jax.retrieval import compare

  dims = nesting.doubling(8, 2048)
  methods = compare.plan(dims, (*dims, 3000), k=100, shortlist=200)
  assert methods['16'] == ((16,), (100,))
  assert methods['16-2048'] == ((16, 2048), (200, 100))
  # Section 4.3.1: 200, 100, 50, 25, 10 with 16, 32, 64, 128, 256, 2048.
  assert methods['16-32-64-128-256-2048'] == (
    (16, 32, 64, 128, 256, 2048),
    (200, 100, 50, 25, 10, 10),
  )


def test_training_on_eight_devices(finished, config, tmp_path):
  """The same run, spread, ends in nearly the same numbers."""
  one, workdir = finished
  config.update(mesh={'data': 4, 'model': 2}, fsdp=True)
  stages.run(config, tmp_path, ('train', 'evaluate'))
  chex.assert_trees_all_close(
    restored(config, tmp_path, 8).params,
    restored(one, workdir.path, 8).params,
    rtol=1e-3,
    atol=1e-4,
  )
  values, expected = (
    values_of(w) for w in (stages.open_workdir(config, tmp_path), workdir)
  )
  for dim in (2, 8, 64):
    name = f'val/loss@{dim}'
    np.testing.assert_allclose(values[name], expected[name], rtol=1e-2)


def test_folder_by_stream_with_a_damaged_image(
  config, tmp_path, capsys, monkeypatch
):
  """The user's own images, decoded as needed, with MRL-E."""
  root = images.write_folder(tmp_path / 'mine', each=6)
  path = root / 'train' / 'cat' / '0.png'
  path.write_bytes(path.read_bytes()[:60])
  config.update(
    dataset=f'folder:{root}',
    train_split='train',
    eval_split='val',
    input='stream',
    augmentation='random_resized_crop',
    eval_resize=10,
    batch_size=4,
    head='mrl_e',
    late_image_size=10,
    late_epoch=1,
    flip_eval_image_size=9,
    flip_eval_resize=10,
  )
  config.retrieval.k = 5
  steps, make_train_step = [], train_step_lib.make_train_step
  monkeypatch.setattr(
    train_step_lib,
    'make_train_step',
    lambda *args, **kwargs: (
      steps.append(make_train_step(*args, **kwargs)) or steps[-1]
    ),
  )
  stages.run(config, tmp_path / 'run', ALL)
  # One compilation for each size of the images.
  assert [step._cache_size() for step in steps] == [2]
  workdir = stages.open_workdir(config, tmp_path / 'run')
  # MRL-E has a classifier at every width.
  expected = {
    f'{kind}/top1@{m}' for kind in ('val', 'val_flip') for m in WIDTHS
  }
  assert expected <= values_of(workdir).keys()
  embedding_ND, _, manifest = embeddings.load(workdir.embeddings, 'train')
  assert manifest['damaged'] == ['train/cat/0.png']
  assert len(embedding_ND) == 11
  assert 'skipped damaged images: train/cat/0.png' in capsys.readouterr().out
  config.max_damaged = 0
  with pytest.raises(ValueError, match=r'max_damaged=0.*train/cat/0.png'):
    stages.run(config, tmp_path / 'other', ('train',))
