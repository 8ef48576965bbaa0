"""Files of logits: whole or none, and in agreement with each other."""

import json

import numpy as np
import pytest

from mrl_jax.workdir import checksums
from mrl_jax.workdir import npy
from mrl_jax.workdir import predictions

DIMS = (2, 4)


def write(folder, logits, labels, *, count=None, kinds=predictions.KINDS):
  """Writes batches of two examples."""
  _, N, C = logits.shape
  with predictions.writing(
    folder, 'val', kinds, dims=DIMS, count=count or N
  ) as writer:
    for start in range(0, N, 2):
      rows = slice(start, start + 2)
      block = logits[:, rows]
      writer.append(block.astype(np.float16), block.argmax(-1), labels[rows])
  paths = predictions.paths(folder, 'val')
  checksums.write(
    paths['manifest'],
    {'dims': DIMS, 'count': writer.count, 'num_classes': C},
    [paths[kind] for kind in kinds],
  )


@pytest.fixture
def arrays():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 5, 3)).astype(np.float32)
  return logits, np.array([0, 1, 2, 1, 0], np.int32)


@pytest.mark.parametrize('left_out', [0, 1, 7])
def test_what_was_written_is_read(tmp_path, arrays, monkeypatch, left_out):
  monkeypatch.setattr(npy, '_CHUNK', 8)
  logits, labels = arrays
  write(tmp_path, logits, labels, count=5 + left_out)
  found = predictions.load(tmp_path, 'val', DIMS)
  np.testing.assert_array_equal(found.logits_GNC, logits.astype(np.float16))
  np.testing.assert_array_equal(found.prediction_GN, logits.argmax(-1))
  np.testing.assert_array_equal(found.label_N, labels)
  assert isinstance(found.logits_GNC, np.memmap)
  assert {p.name for p in tmp_path.iterdir()} == {
    'val.json', 'val-logits.npy', 'val-predictions.npy', 'val-labels.npy',
  }  # fmt: skip


def test_an_interrupted_writing_leaves_nothing(tmp_path, arrays):
  logits, labels = arrays
  write(tmp_path, logits, labels)
  logits[1, 3] = np.inf
  with pytest.raises(ValueError, match='beyond 65,504'):
    write(tmp_path, logits, labels)
  assert list(tmp_path.iterdir()) == []


def test_missing_files_name_the_stage(tmp_path, arrays):
  match = r'run --mode=evaluate --config.save=logits,predictions,labels first'
  with pytest.raises(ValueError, match=match):
    predictions.load(tmp_path, 'val', DIMS)
  write(tmp_path, *arrays, kinds=('labels',))
  with pytest.raises(ValueError, match=r'val-logits.npy is not there'):
    predictions.load(tmp_path, 'val', DIMS)


def test_arrays_that_are_not_the_manifests_are_refused(tmp_path, arrays):
  write(tmp_path, *arrays)
  with pytest.raises(ValueError, match=r'is of dims \[2, 4\], not \[2, 8\]'):
    predictions.load(tmp_path, 'val', (2, 8))
  path = tmp_path / 'val.json'
  manifest = json.loads(path.read_text())
  path.write_text(json.dumps(manifest | {'dims': [2, 4, 8]}))
  with pytest.raises(ValueError, match=r'val.json is not as it was written'):
    predictions.load(tmp_path, 'val', (2, 4, 8))
  # As written before there were checksums.
  del manifest['files'], manifest['checksum']
  path.write_text(json.dumps(manifest | {'dims': [2, 4, 8]}))
  with pytest.raises(ValueError, match=r'val.json says .*\(3, 5, 3\)'):
    predictions.load(tmp_path, 'val', (2, 4, 8))
  path.write_text(json.dumps(manifest))
  (tmp_path / 'val-logits.npy').write_bytes(b'')
  with pytest.raises(ValueError, match='cannot be read'):
    predictions.load(tmp_path, 'val', DIMS)
