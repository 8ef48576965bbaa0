"""Nested embeddings made of vectors, and where the vectors come from."""

import argparse

import chex
from flax import nnx
import numpy as np
import pytest

from configs import adapt_embeddings
from mrl_jax import explain
from mrl_jax import retrieval
from mrl_jax import stages
from mrl_jax.data.batches import vectors as vector_batches
from mrl_jax.data.sources import vectors
from mrl_jax.models.adaptor import Adaptor
from mrl_jax.retrieval import projections
from mrl_jax.training import sharding
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import embeddings

WIDTH, CLASSES = 64, 40
# The sizes of train and val.
COUNTS = {'train': 2000, 'val': 300}


def draw(rng):
  """Classes in 24 dims, among loud ones that say nothing, all rotated."""
  center_CD = np.zeros((CLASSES, WIDTH))
  center_CD[:, :24] = 3 * rng.normal(size=(CLASSES, 24))
  scale_D = np.where(np.arange(WIDTH) < WIDTH - 8, 1.5, 6)
  rotation_DD = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
  for split, count in COUNTS.items():
    label_N = rng.integers(0, CLASSES, count)
    noise_ND = scale_D * rng.normal(size=(count, WIDTH))
    row_ND = (center_CD[label_N] + noise_ND) @ rotation_DD + 5
    yield split, row_ND.astype(np.float32), label_N


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('vectors')
  for split, row_ND, label_N in draw(np.random.default_rng(0)):
    np.save(path / f'{split}-x.npy', row_ND)
    np.save(path / f'{split}-y.npy', label_N)
  return path


def shrunk(folder, **fields):
  config = adapt_embeddings.get_config()
  config.mesh.data = 1
  config.embeddings = str(folder)
  config.batch_size = 100
  config.adaptor_hidden = 64
  config.retrieval.k = 10
  config.retrieval.shortlist = 20
  config.update(fields)
  return config


@pytest.fixture(scope='module')
def finished(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  config = shrunk(folder)
  stages.run(config, path, config.modes)
  return path


def rows_and_labels(source):
  """All rows of a split, and their labels."""
  return source.read(np.arange(len(source))), source.label_N


def nearest(database, queries, dims=(8, 16)):
  """1-NN accuracy at each of the widths."""
  (row_MD, label_M), (query_QD, label_Q) = database, queries
  prepared = retrieval.prepare(row_MD, dims)
  accuracy = []
  for dim in dims:
    ids_Q = retrieval.search(query_QD, prepared, 1, dim=dim).ids_QK[:, 0]
    accuracy.append((label_M[ids_Q] == label_Q).mean())
  return np.array(accuracy)


def test_short_prefixes_are_better_than_pca(folder, finished):
  opened = [vectors.open_vectors(str(folder), split) for split in COUNTS]
  pairs = [rows_and_labels(source) for source in opened]
  nested = [embeddings.load(finished / 'embeddings', s)[:2] for s in COUNTS]
  after = nearest(*nested)
  for center in (False, True):
    pca = projections.principal(pairs[0][0], 16, center=center)
    before = nearest(*[(pca(row_ND), label_N) for row_ND, label_N in pairs])
    assert (after > before + 0.1).all()
  full = nearest(*nested, (WIDTH,)), nearest(*pairs, (WIDTH,))
  assert full[0] > full[1]
  assert (finished / 'report/index.html').exists()


def test_vectors_cannot_be_looked_at(finished):
  args = argparse.Namespace(run=finished, images=['a.png'], out='x.png')
  with pytest.raises(ValueError, match='trained on vectors: only images'):
    explain.run(args)


def test_resumed_and_streamed_it_gives_the_same_bits(folder, tmp_path):
  """Also of rows in half precision, which stay on disk."""
  for split in COUNTS:
    source = vectors.open_vectors(str(folder), split)
    row_ND, label_N = rows_and_labels(source)
    np.save(tmp_path / f'{split}-x.npy', row_ND.astype(np.float16))
    np.save(tmp_path / f'{split}-y.npy', label_N)

  def run(name, step, **fields):
    config = shrunk(tmp_path, num_epochs=2, checkpoint_every_epochs=1, **fields)
    stages.run(config, tmp_path / name, ('train',))
    with Checkpoints(tmp_path / name / 'checkpoints') as checkpoints:
      like = checkpoints.model_shapes(step)
      return checkpoints.restore_model(like, step)

  whole = run('resident', 40, input='resident')
  run('stream', 40, input='stream')
  (tmp_path / 'stream/checkpoints/40').rename(tmp_path / 'gone')
  (tmp_path / 'stream/stages.json').unlink()
  chex.assert_trees_all_equal(whole, run('stream', 40, input='stream'))


def test_the_transform_starts_as_the_identity():
  row_ND = np.random.default_rng(0).normal(3, 2, (50, 6)).astype(np.float32)
  adaptor = Adaptor(6, 4, rngs=nnx.Rngs(0))
  adaptor.fit(row_ND)
  out_ND = np.asarray(adaptor(row_ND))
  np.testing.assert_allclose(out_ND.mean(0), np.zeros(6), atol=1e-5)
  np.testing.assert_allclose(np.square(out_ND).mean(), 1, rtol=1e-5)
  scale = np.asarray(adaptor.scale[...])
  np.testing.assert_allclose(
    out_ND * scale, row_ND - row_ND.mean(0), rtol=1e-4, atol=1e-5
  )
  with pytest.raises(ValueError, match=r'50 vectors .* are all the same'):
    adaptor.fit(np.ones((50, 6), np.float32))


def test_one_file_is_split(tmp_path):
  row_ND = np.arange(800, dtype=np.float32).reshape(200, 4)
  np.save(tmp_path / 'X.npy', row_ND)
  np.save(tmp_path / 'Y.npy', np.arange(200) % 7)
  path, labels = str(tmp_path / 'X.npy'), str(tmp_path / 'Y.npy')
  parts = {
    split: rows_and_labels(vectors.open_vectors(path, split, labels=labels))
    for split in ('train', 'val')
  }
  assert 10 < len(parts['val'][0]) < 30
  rows = {split: set(part[0][:, 0] // 4) for split, part in parts.items()}
  assert not rows['train'] & rows['val']
  assert rows['train'] | rows['val'] == set(range(200))
  for part_ND, label_N in parts.values():
    np.testing.assert_array_equal(label_N, part_ND[:, 0] // 4 % 7)
  # More rows move no other.
  np.save(tmp_path / 'X.npy', np.concatenate([row_ND, row_ND]))
  np.save(tmp_path / 'Y.npy', np.arange(400) % 7)
  more = vectors.open_vectors(path, 'val', labels=labels)
  more_ND = more.read(np.arange(len(parts['val'][0])))
  np.testing.assert_array_equal(more_ND, parts['val'][0])


def test_evaluation_has_every_row_once(folder):
  source = vectors.open_vectors(str(folder), 'val')
  mesh = sharding.make_mesh()
  batches = [*vector_batches.EvaluationVectors(source, 90, mesh=mesh)]
  assert {batch['image'].shape for batch in batches} == {(96, WIDTH)}
  rows, labels = (
    np.concatenate([x[name][np.asarray(x['mask'])] for x in batches])
    for name in ('image', 'label')
  )
  row_ND, label_N = rows_and_labels(source)
  np.testing.assert_array_equal(rows, row_ND)
  np.testing.assert_array_equal(labels, label_N)


def test_a_sample_is_of_the_split(folder):
  source = vectors.open_vectors(str(folder), 'train')
  assert len(source.sample(5000, seed=0)) == 2000
  sample_ND = source.sample(320, seed=0)
  all_rows = {row.tobytes() for row in rows_and_labels(source)[0]}
  assert len({row.tobytes() for row in sample_ND} & all_rows) == 320


def arrays_of(folder, **arrays):
  for name, array in arrays.items():
    np.save(folder / f'{name.replace("_", "-")}.npy', array)


ROWS, LABELS = np.ones((4, 3), np.float32), np.arange(4)


@pytest.mark.parametrize(
  'changed, match',
  [
    ({'val_x': np.ones((4, 2), np.float32)}, 'width 2, .* of 3: must be the'),
    ({'val_y': np.array([0, 1, 2, 4])}, 'label 4 of row 3 .* in .0, 4.'),
    ({'train_y': np.array([0, 1, -2, 3])}, 'label -2 of row 2'),
    ({'train_y': np.arange(3)}, r'train-y.npy .*\(3,\).*\(4,\)'),
    ({'train_y': np.ones(4)}, r'train-y.npy of float64: must be integers'),
    ({'train_x': np.ones((4, 3), int)}, 'train-x.npy holds int64'),
    ({'train_x': np.ones(4)}, r'train-x.npy holds .* shape \(4,\)'),
  ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, changed, match):
  arrays_of(tmp_path, train_x=ROWS, train_y=LABELS, val_x=ROWS, val_y=LABELS)
  arrays_of(tmp_path, **changed)
  with pytest.raises(ValueError, match=match):
    for split in ('train', 'val'):
      vectors.open_vectors(str(tmp_path), split)


def test_what_is_not_there_is_named(tmp_path):
  arrays_of(tmp_path, train_x=ROWS, train_y=LABELS, test_x=ROWS, test_y=LABELS)
  with pytest.raises(ValueError, match=r"'val' .* of \['test', 'train'\]"):
    vectors.open_vectors(str(tmp_path), 'val')
  with pytest.raises(ValueError, match=r'nowhere: no such folder or .npy'):
    vectors.open_vectors(str(tmp_path / 'nowhere'), 'val')
  with pytest.raises(ValueError, match=r"labels 'y\.npy': must be empty"):
    vectors.open_vectors(str(tmp_path), 'train', labels='y.npy')
  path = str(tmp_path / 'train-x.npy')
  with pytest.raises(ValueError, match='labels is empty'):
    vectors.open_vectors(path, 'train')
  labels = str(tmp_path / 'train-y.npy')
  with pytest.raises(ValueError, match=r"'test' .* must be 'train' or 'val'"):
    vectors.open_vectors(path, 'test', labels=labels)


def test_a_row_that_is_not_finite_is_named(tmp_path):
  row_ND = ROWS.copy()
  row_ND[2, 1] = np.nan
  arrays_of(tmp_path, train_x=row_ND, train_y=LABELS)
  source = vectors.open_vectors(str(tmp_path), 'train')
  with pytest.raises(ValueError, match=r'row 2 of .*train-x\.npy is not fin'):
    source.read(np.array([0, 2]))
