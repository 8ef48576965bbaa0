"""Files that are not as they were written: each is told in one line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mrl_jax.analysis import cascade
from mrl_jax.retrieval import row_files
from mrl_jax.stages import report
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import predictions

DIMS = (2, 4)


def write_embeddings(folder, seed=0, split='val'):
  folder.mkdir(exist_ok=True)
  rng = np.random.default_rng(seed)
  x_path, y_path, manifest_path = embeddings.paths(folder, split)
  np.save(x_path, rng.normal(size=(9, 4)).astype(np.float32))
  np.save(y_path, rng.integers(0, 3, 9).astype(np.int32))
  record = {'count': 9, 'dim': 4, 'nesting_dims': [2, 4], 'step': 123}
  checksums.write(manifest_path, record, [x_path, y_path])
  return lambda: embeddings.load(folder, split)


def write_predictions(folder, seed=0):
  rng = np.random.default_rng(seed)
  with predictions.writing(
    folder, 'val', predictions.KINDS, dims=DIMS, count=9
  ) as writer:
    logits = rng.normal(size=(2, 9, 3)).astype(np.float16)
    writer.append(logits, logits.argmax(-1), rng.integers(0, 3, 9))
  paths = predictions.paths(folder, 'val')
  checksums.write(
    paths['manifest'],
    {'dims': DIMS, 'count': 9, 'num_classes': 3, 'step': 123},
    [paths[kind] for kind in predictions.KINDS],
  )
  return lambda: predictions.load(folder, 'val', DIMS)


def write_cascade(folder, seed=0):
  folder.mkdir()
  path = folder / 'cascade.json'
  cascade.save(path, cascade.Cascade((2, 4), (0.125 + seed / 8,)))
  return lambda: cascade.load(path)


WRITERS = (write_embeddings, write_predictions, write_cascade)


@pytest.mark.parametrize('write', WRITERS)
def test_a_flipped_bit_is_noticed(tmp_path, write):
  load = write(tmp_path / 'x')
  load()
  rng = np.random.default_rng(0)
  for path in (tmp_path / 'x').iterdir():
    whole = path.read_bytes()
    places = rng.permutation(8 * len(whole))[:40]
    for place in places:
      damaged = bytearray(whole)
      damaged[place // 8] ^= 1 << place % 8
      path.write_bytes(damaged)
      with pytest.raises(ValueError, match=r'run --mode=\w+') as error:
        load()
      assert path.name in str(error.value) and '\n' not in str(error.value)
    for size in rng.integers(0, len(whole), 8):
      path.write_bytes(whole[:size])
      with pytest.raises(ValueError, match=path.name):
        load()
    path.write_bytes(whole)
  load()


@pytest.mark.parametrize('write', WRITERS[:2])
def test_files_of_another_run_are_noticed(tmp_path, write):
  load = write(tmp_path / 'a')
  write(tmp_path / 'b', seed=1)
  for other in (tmp_path / 'b').iterdir():
    path = tmp_path / 'a' / other.name
    whole = path.read_bytes()
    assert whole != other.read_bytes()
    shutil.copyfile(other, path)
    with pytest.raises(ValueError, match=r'is not as .* run --mode='):
      load()
    path.write_bytes(whole)
  load()


def test_a_split_under_another_name_is_noticed(tmp_path):
  write_embeddings(tmp_path, split='train')
  for old, new in zip(
    embeddings.paths(tmp_path, 'train'),
    embeddings.paths(tmp_path, 'val'),
    strict=True,
  ):
    old.rename(new)
  with pytest.raises(ValueError, match=r'val-x\.npy is not among the files'):
    embeddings.load(tmp_path, 'val')


def test_rows_and_labels_for_a_search_are_checked(tmp_path):
  write_embeddings(tmp_path)
  x_path, y_path, manifest_path = embeddings.paths(tmp_path, 'val')
  row_ND, manifest = row_files.load_rows(x_path)
  assert manifest == {
    'count': 9, 'dim': 4, 'nesting_dims': [2, 4], 'step': 123
  }  # fmt: skip
  row_files.load_labels(y_path, len(row_ND))
  for path in (x_path, y_path):
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
  with pytest.raises(ValueError, match=r'val-x\.npy is not as it was written'):
    row_files.load_rows(x_path)
  with pytest.raises(ValueError, match=r'val-y\.npy is not as it was written'):
    row_files.load_labels(y_path, 9)
  # Arrays of anyone, of which nothing is known.
  manifest_path.unlink()
  row_files.load_labels(y_path, 9)
  assert row_files.load_rows(x_path)[1] == {}


def test_a_report_shows_nothing_damaged(tmp_path):
  path, arrays_path = tmp_path / 'saliency.json', tmp_path / 'saliency.npz'
  np.savez(arrays_path, heat=np.zeros(9))
  checksums.write(path, {'step': 1, 'dims': [2, 4]}, [arrays_path])
  assert report._read_checked(path) == {'step': 1, 'dims': [2, 4]}
  for damaged_path in (path, arrays_path):
    whole = damaged_path.read_bytes()
    for place in range(0, 8 * len(whole), 97):
      damaged = bytearray(whole)
      damaged[place // 8] ^= 1 << place % 8
      damaged_path.write_bytes(damaged)
      with pytest.raises(ValueError, match='delete it and run --mode=analyze'):
        report._read_checked(path)
    damaged_path.write_bytes(whole)


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
  path = tmp_path / 'x'
  path.write_bytes(b'')
  # The checksum of no bytes in the reference implementation.
  assert checksums.of(path) == checksums.Checksum(0, '2d06800538d394c2')
  path.write_bytes(bytes(1000))
  first = checksums.of(path)
  monkeypatch.setattr(checksums, '_LARGE', 1000)
  read = []
  hash_ = checksums.xxhash.xxh3_64
  monkeypatch.setattr(
    checksums.xxhash, 'xxh3_64', lambda: (read.append(1), hash_())[1]
  )
  assert checksums.of(path) == checksums.of(path) == first
  assert len(read) == 1
  path.write_bytes(bytes(999) + b'1')
  assert checksums.of(path) != first


def test_folders_are_checked_by_a_command(tmp_path):
  write_embeddings(tmp_path / 'x')
  command = [
    sys.executable,
    '-m',
    'mrl_jax.workdir.checksums',
    str(tmp_path / 'x'),
  ]
  run = lambda: subprocess.run(command, capture_output=True, text=True)
  done = run()
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f'{tmp_path / "x"}: 3 files, ')
  (tmp_path / 'x/val-y.npy').unlink()
  done = run()
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr.startswith('ValueError: ')
  assert 'val-y.npy is missing' in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_one_text_for_one_record(tmp_path):
  """Files are equal byte for byte, whatever order they were listed in."""
  write_embeddings(tmp_path)
  x_path, y_path, path = embeddings.paths(tmp_path, 'val')
  text = path.read_text()
  sealed = checksums.read(path, '')
  checksums.write(path, sealed.record, [y_path, x_path])
  assert path.read_text() == text
  assert list(json.loads(text)['files']) == ['val-x.npy', 'val-y.npy']
