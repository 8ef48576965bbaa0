import numpy as np
import pytest

from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings


def write(folder, split, rows, labels, **manifest):
  x_path, y_path, manifest_path = embeddings.paths(folder, split)
  folder.mkdir(exist_ok=True)
  np.save(x_path, rows)
  np.save(y_path, labels)
  count, dim = rows.shape
  record = {'count': count, 'dim': dim, **manifest}
  checksums.write(manifest_path, record, [x_path, y_path])


def test_paths():
  from pathlib import Path

  names = [path.name for path in embeddings.paths(Path('x'), 'train')]
  assert names == ['train-x.npy', 'train-y.npy', 'train.json']
  halves = {
    embeddings.paths(Path('x'), split)[0]
    for split in ('train[:50%]', 'train[50%:]', 'train_50')
  }
  assert len(halves) == 3


def test_load(tmp_path):
  rows = np.arange(6, dtype=np.float32).reshape(3, 2)
  labels = np.arange(3, dtype=np.int32)
  write(tmp_path, 'val', rows, labels, step=8)
  embedding_ND, label_N, manifest = embeddings.load(tmp_path, 'val')
  np.testing.assert_array_equal(embedding_ND, rows)
  np.testing.assert_array_equal(label_N, labels)
  assert isinstance(embedding_ND, np.memmap)
  assert manifest['step'] == 8


@pytest.mark.parametrize(
  'rows, labels, manifest',
  [
    (np.zeros((3, 2), np.float32), np.zeros(3, np.int32), {'count': 4}),
    (np.zeros((3, 2), np.float32), np.zeros(3, np.int32), {'dim': 64}),
    (np.zeros((3, 2), np.float32), np.zeros(2, np.int32), {}),
    (np.zeros((3, 2), np.float64), np.zeros(3, np.int32), {}),
    (np.zeros((3, 2), np.float32), np.zeros(3, np.float16), {}),
  ],
)
def test_a_manifest_that_disagrees(tmp_path, rows, labels, manifest):
  write(tmp_path, 'val', rows, labels, **manifest)
  with pytest.raises(ValueError, match=r'val\.json says .* delete it and run'):
    embeddings.load(tmp_path, 'val')


@pytest.mark.parametrize('end', ['-x.npy', '-y.npy'])
def test_cut_short(tmp_path, end):
  rows, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int32)
  write(tmp_path, 'val', rows, labels)
  path = tmp_path / f'val{end}'
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=rf'val{end} has .* run --mode=embed'):
    embeddings.load(tmp_path, 'val')
  # As written before there were checksums.
  manifest_path = tmp_path / 'val.json'
  manifest_path.write_text('{"count": 3, "dim": 2}')
  with (
    pytest.warns(UserWarning, match='without checksums: damage'),
    pytest.raises(ValueError, match=rf'val{end} cannot be read'),
  ):
    embeddings.load(tmp_path, 'val')
  path.unlink()
  with pytest.raises(ValueError, match='run --mode=embed first'):
    embeddings.load(tmp_path, 'val')
