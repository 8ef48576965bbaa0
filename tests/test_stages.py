"""`digits_mrl`, shrunk, through all stages; and what each refuses."""

import json
import re

import chex
import jax
import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax import stages
from mrl_jax import state as state_lib
from mrl_jax import writer
from mrl_jax.checkpoint import Checkpoints
from mrl_jax.retrieval import metrics
from mrl_jax.stages import build
from mrl_jax.stages import embed
from mrl_jax.stages import evaluate
from mrl_jax.workdir import Workdir
from tests import images

ALL = ('train', 'evaluate', 'embed', 'retrieve', 'report')
WIDTHS = (2, 5, 8, 64)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_dir):
  """A workdir through which all stages have run, and its config."""
  from tests import conftest

  config = conftest.shrunk(data_dir)
  path = tmp_path_factory.mktemp('run')
  stages.run(config, path, ALL)
  return config, Workdir(path, config.to_dict())


def values_of(workdir):
  """The last value of every metric."""
  values = {}
  for record in writer.read_metrics(workdir.metrics):
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
  }
  assert expected <= values.keys()
  assert 'val/top1@5' not in values  # MRL has no classifier there.
  steps = [record['step'] for record in writer.read_metrics(workdir.metrics)]
  assert steps == sorted(steps) and steps[-1] == 8


def test_it_learns(finished):
  _, workdir = finished
  losses = [
    record['train/loss']
    for record in writer.read_metrics(workdir.metrics)
    if 'train/loss' in record
  ]
  assert losses[-1] < losses[0] - 0.2


def test_embeddings_and_manifest(finished):
  config, workdir = finished
  embedding_ND, label_N, manifest = embed.load(workdir, config.train_split)
  assert (embedding_ND.shape, embedding_ND.dtype) == ((264, 64), np.float32)
  assert (label_N.shape, label_N.dtype) == ((264,), np.int32)
  assert isinstance(embedding_ND, np.memmap)
  assert (embedding_ND >= 0).all()  # After the last ReLU.
  assert manifest['nesting_dims'] == [2, 8, 64]
  assert manifest['step'] == 8
  assert not manifest['normalised']
  names = {path.name for path in workdir.embeddings.iterdir()}
  assert names == {
    f'{stem}{end}'
    for stem in ('train_264', 'test_70')
    for end in ('-x.npy', '-y.npy', '.json')
  }


def test_embeddings_are_those_of_the_logits(finished):
  """The exported prefixes times the head give the evaluation's top-1."""
  config, workdir = finished
  embedding_ND, label_N, _ = embed.load(workdir, config.eval_split)
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
  database_MD, database_label_M, _ = embed.load(workdir, config.train_split)
  query_QD, query_label_Q, _ = embed.load(workdir, config.eval_split)
  with np.load(workdir.retrieval / '8.npz', allow_pickle=False) as file:
    ids_QK, scores_QK = file['ids'], file['scores']
  expected = retrieval.search(query_QD, database_MD, 20, dim=8)
  np.testing.assert_array_equal(ids_QK, expected.ids_QK)
  np.testing.assert_allclose(scores_QK, expected.scores_QK, atol=1e-6)
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
  assert page.count('<svg') == 4
  links = re.findall(r'(?:src|href)="([^"]*)"', page)
  assert all(link.startswith('#') for link in links)
  assert '<script' not in page
  for dim in WIDTHS:
    value = values_of(workdir)[f'val/knn1@{dim}']
    assert f'<td>{value:.2f}</td>' in page


def test_finished_stages_are_skipped(finished, capsys):
  config, workdir = finished
  before = workdir.metrics.read_bytes()
  stages.run(config, workdir.path, ALL)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 5
  for stage, line in zip(ALL, lines, strict=True):
    assert line.startswith(f'{stage}: already finished')
  assert workdir.metrics.read_bytes() == before


def restored(config, path, step):
  """The whole state of a checkpoint."""
  optimizer, _ = build.optimizer(config, 1)
  _, like = state_lib.create(build.model(config, 10), optimizer)
  with Checkpoints(path / 'checkpoints') as checkpoints:
    state, _ = checkpoints.restore(like, step)
  return jax.device_get(state)


def training_records(path):
  """What metrics.jsonl says of training, but for the speed."""
  records = writer.read_metrics(path / 'metrics.jsonl')
  for record in records:
    record.pop('train/images_per_second', None)
  return records


@pytest.mark.parametrize('where', ['evaluation', 'checkpoint'])
def test_a_stopped_run_goes_on_to_the_same_bits(
  config, tmp_path, monkeypatch, where
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
        evaluate, 'accumulate', stop_at_the_second(evaluate.accumulate)
      )
    else:
      patch.setattr(Checkpoints, 'save', stop_at_the_second(Checkpoints.save))
    with pytest.raises(KeyboardInterrupt):
      stages.run(config, tmp_path / 'stopped', ('train',))
  stages.run(config, tmp_path / 'stopped', ('train',))
  chex.assert_trees_all_equal(
    *(restored(config, tmp_path / name, 12) for name in ('whole', 'stopped'))
  )
  assert training_records(tmp_path / 'whole') == training_records(
    tmp_path / 'stopped'
  )


def test_a_loss_that_is_not_finite_stops_training(config, tmp_path):
  # From step 5 on the learning rate is beyond all bounds.
  config.update(
    schedule='step', step_epochs=(1.25,), step_factor=1e30, num_epochs=3
  )
  with pytest.raises(ValueError, match=r'nan at step 7: .* of step 4'):
    stages.run(config, tmp_path, ('train',))
  workdir = Workdir(tmp_path, config.to_dict())
  assert workdir.latest_step() == 4
  assert not workdir.is_finished('train')
  for leaf in jax.tree.leaves(restored(config, tmp_path, 4)):
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize('stage', ALL[1:])
def test_stages_out_of_order(config, tmp_path, stage):
  missing = {'evaluate': 'train', 'embed': 'train', 'retrieve': 'embed'}
  with pytest.raises(
    ValueError, match=f'--mode={missing.get(stage, "train")} first'
  ):
    stages.run(config, tmp_path / 'run', (stage,))
  assert not (tmp_path / 'run').exists()


def test_unknown_stage(config, tmp_path):
  with pytest.raises(ValueError, match="'tarin': must be one of"):
    stages.run(config, tmp_path / 'run', ('train', 'tarin'))
  assert not (tmp_path / 'run').exists()


def test_report_needs_the_evaluation(config, tmp_path):
  stages.run(config, tmp_path, ('train',))
  with pytest.raises(ValueError, match='--mode=evaluate first'):
    stages.run(config, tmp_path, ('report',))


def test_another_config_is_refused(finished):
  config, workdir = finished
  other = config.copy_and_resolve_references()
  other.learning_rate = 0.5
  with pytest.raises(ValueError, match=r'learning_rate is 0.05 there and 0.5'):
    stages.run(other, workdir.path, ('train',))
  # Without config.json, the checkpoint still knows.
  record = workdir.path / 'config.json'
  text = record.read_text()
  record.unlink()
  try:
    with pytest.raises(
      ValueError, match=r'checkpoints/8 was made with another'
    ):
      stages.run(other, workdir.path, ('evaluate',))
  finally:
    record.write_text(text)


def test_other_widths_are_evaluated_again(finished):
  config, workdir = finished
  other = config.copy_and_resolve_references()
  other.eval_dims = (30,)
  other = Workdir(workdir.path, other.to_dict())
  assert other.is_finished('train') and other.is_finished('embed')
  for stage in ('evaluate', 'retrieve', 'report'):
    assert not other.is_finished(stage)


def test_a_manifest_that_disagrees(finished):
  config, workdir = finished
  path = workdir.embeddings / 'test_70.json'
  text = path.read_text()
  for name, value in (('count', 71), ('dim', 32)):
    path.write_text(json.dumps({**json.loads(text), name: value}))
    with pytest.raises(ValueError, match=rf'test_70\.json says.*{value}'):
      embed.load(workdir, config.eval_split)
  path.write_text(text)
  embed.load(workdir, config.eval_split)


@pytest.mark.parametrize('name', ['test_70-x.npy', 'test_70-y.npy'])
def test_embeddings_cut_short(finished, name):
  config, workdir = finished
  path = workdir.embeddings / name
  content = path.read_bytes()
  path.write_bytes(content[:-100])
  try:
    with pytest.raises(ValueError, match=r'test_70-x\.npy.*cannot be read'):
      embed.load(workdir, config.eval_split)
  finally:
    path.write_bytes(content)


def test_folder_by_stream_with_a_damaged_image(config, tmp_path, capsys):
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
  )
  config.retrieval.k = 5
  stages.run(config, tmp_path / 'run', ALL)
  workdir = Workdir(tmp_path / 'run', config.to_dict())
  # MRL-E has a classifier at every width.
  assert {f'val/top1@{dim}' for dim in WIDTHS} <= values_of(workdir).keys()
  embedding_ND, _, manifest = embed.load(workdir, 'train')
  assert manifest['damaged'] == ['cat/0.png']
  assert len(embedding_ND) == 11
  assert 'skipped damaged images: cat/0.png' in capsys.readouterr().out
  config.max_damaged = 0
  with pytest.raises(ValueError, match=r'max_damaged=0.*cat/0.png'):
    stages.run(config, tmp_path / 'other', ('train',))
