"""Damaged files, by a fixed seed: each reader gives a value, or one line."""

import functools
import io
import json
import pathlib
import zipfile

import numpy as np
import pytest

from mrl_jax.analysis import cascade
from mrl_jax.analysis import superclass
from mrl_jax.data.prepare import manifest
from mrl_jax.interop import classify
from mrl_jax.report import records
from mrl_jax.workdir import files
from mrl_jax.workdir import metrics_log
from mrl_jax.workdir import npy

ROW, SPREAD = [1.5, None], {'mean': [1.5], 'std': [0.5]}
# A record of each schema.
RECORDS = {
  'baselines': {
    'dims': [8], 'sampled': False, 'queries': 3, 'database': 9,
    'knn1': {'nested': ROW},
  },
  'projection': {
    'dims': [8], 'step': 3, 'num_classes': 2, 'labels': [0],
    'names': {'0': 'cat'}, 'prediction': [[0]], 'probability': [[0.5]],
    'thumbnail': {'file': 'x.jpg', 'side': 8, 'columns': 1, 'rows': 1},
    'tsne': [[[0.5, 1.5]]], 'pca2': [[[0.5, 1.5]]], 'pca3': [[[0.5, 1.5]]],
  },
  'cascade_curve': {
    'dims': [8], 'single': ROW, 'accuracy': SPREAD, 'expected_dim': SPREAD,
    'cumulated_dim': SPREAD, 'repeats': 3, 'fit_share': 0.2,
  },
  'oracle': {
    'dims': [8], 'count': [3], 'never': 1, 'examples': 4, 'accuracy': 75.0,
    'expected_dim': None, 'majority': 75.0, 'agreement': [[1.0]],
    'trends': {'level': 2},
  },
  'per_class': {'dims': [8], 'classes': ['cat'], 'accuracy': [ROW]},
  'structure': {
    'dims': [8], 'explained_variance': ROW, 'overlap': [ROW], 'k': 3,
  },
  'saliency': {
    'dims': [8], 'arrays': 'x.npz', 'labels': [None], 'titles': ['x'],
    'names': {'0': 'cat'}, 'prediction': [[0]], 'probability': [[0.5]],
  },
  'calibration': {
    'dims': [8], 'ece': ROW,
    'bins': {'confidence': [ROW], 'accuracy': [ROW], 'count': [[3, 0]]},
  },
  'few_shot': {
    'dims': [8],
    'settings': [{'shots': 1, 'ways': 5, 'accuracy': ROW, 'std': ROW}],
  },
  'superclass': {
    'dims': [8], 'groups': ['a'], 'accuracy': ROW, 'by_group': [ROW],
    'inside': [ROW], 'across': [ROW], 'within': [ROW],
  },
  'retrieval': {
    'queries': 3, 'database': 9,
    'methods': {
      '8': {
        'dims': [8], 'metrics': {'map10': 5.5}, 'mflops_per_query': 0.5,
        'seconds': 0.5,
      },
    },
  },
}  # fmt: skip
MANIFEST = {
  'settings': {'max_side': 0},
  'splits': {'train': {'images': 1, 'bytes': 2, 'reencoded': 0, 'damaged': {}}},
  'shards': {'a': {'images': 1, 'bytes': 2, 'sha256': 'x'}},
}
# Readers, each with the content of a sound file.
READERS = {
  'cascade': (
    cascade.load, {'dims': [8, 16], 'thresholds': [0.5], 'temperature': 1.0},
  ),
  'groups': (
    lambda path: superclass.load_groups(path, ('cat', 'dog')),
    {'cat': 'pet', 'dog': 'pet'},
  ),
  'manifest': (
    lambda path: manifest.summary(files.read_json(path, manifest.Manifest)),
    MANIFEST,
  ),
  'metrics': (metrics_log.read_metrics, {'step': 3, 'train/loss': 0.5}),
  **{
    name: (
      lambda path, name=name: files.read_json(path, records.SCHEMAS[name]),
      record,
    )
    for name, record in RECORDS.items()
  },
}  # fmt: skip
VALUES = (
  None, True, -1, 2**70, 1.5, 1e308, '', 'x', [], [[]], {}, {'a': 1}, [None],
  ['x'], [1, 'x'], {'': None},
)  # fmt: skip
# Files that are JSON no reader takes.
BROKEN = {
  'empty': b'', 'half': b'{"dims": [8', 'nan': b'{"dims": NaN}',
  'utf-16': '{"dims": [8]}'.encode('utf-16'), 'latin-1': b'{"\xe9": 1}',
  'deep': b'[' * 100_000, 'deep object': b'{"a":' * 100_000,
  'deep value': b'{"dims": ' + b'[' * 100_000 + b']' * 100_000 + b'}',
  'two': b'{} {}', 'array': b'[1]', 'null': b'null', 'zeros': b'\0' * 64,
  'twice': b'{"dims": [8], "dims": [8]}', 'huge': b'{"dims": [1e999]}',
}  # fmt: skip


def mutations(value):
  """The value with a part gone, or of another type, at every place."""
  if isinstance(value, dict):
    for key, inner in value.items():
      rest = {k: x for k, x in value.items() if k != key}
      yield rest
      yield from ({**value, key: x} for x in (*VALUES, *mutations(inner)))
  elif isinstance(value, list):
    for i, inner in enumerate(value):
      for x in (*VALUES, *mutations(inner)):
        yield [*value[:i], x, *value[i + 1 :]]


def refusal(read, path):
  """The line that a reader refuses a file with; None where it takes it."""
  try:
    read(path)
  except ValueError as error:
    assert len(str(error).splitlines()) == 1
    assert path.name in str(error)
    return str(error)
  return None


@pytest.mark.parametrize('name', READERS)
def test_damaged_json_is_one_line(name, tmp_path):
  read, record = READERS[name]
  path = tmp_path / 'x.json'
  path.write_text(json.dumps(record))
  assert refusal(read, path) is None
  path.write_bytes(b'\xef\xbb\xbf' + json.dumps(record).encode())
  assert refusal(read, path) is None  # Some editors begin files so.
  for mutated in mutations(record):
    path.write_text(json.dumps(mutated) + '\n{}' * (name == 'metrics'))
    refusal(read, path)
  for content in BROKEN.values():
    path.write_bytes(content + b'\n{}' * (name == 'metrics'))
    assert refusal(read, path)


@pytest.mark.parametrize('name', RECORDS)
def test_each_key_is_needed_and_named(name, tmp_path):
  path = tmp_path / 'x.json'
  for key in RECORDS[name].keys() - {'step'}:
    path.write_text(
      json.dumps({k: x for k, x in RECORDS[name].items() if k != key})
    )
    assert f'`{key}`' in refusal(READERS[name][0], path)


def test_a_folder_or_a_file_without_permission_is_one_line(tmp_path):
  (tmp_path / 'x.json').mkdir()
  assert 'cannot be read' in refusal(files.read_json, tmp_path / 'x.json')


def test_keys_that_come_twice_are_named():
  with pytest.raises(ValueError, match="key 'cat' comes twice"):
    files.parse_json(b'{"cat": "a", "cat": "b"}', 'x')


def arrays(path):
  np.save(path, np.arange(12, dtype=np.float32).reshape(3, 4))
  return path.read_bytes()


def test_damaged_headers_of_arrays(tmp_path):
  """Bytes changed, put in, taken out, and cut off."""
  path, rng = tmp_path / 'x.npy', np.random.default_rng(0)
  sound = arrays(path)
  for i in range(1536):
    damaged = bytearray(sound)
    at = int(rng.integers(128))
    if i % 4 == 0:
      damaged[at] = rng.integers(256)
    elif i % 4 == 1:
      damaged[at : at + 1] = rng.integers(256, size=rng.integers(4)).tobytes()
    elif i % 4 == 2:
      damaged[at] = rng.choice([*b"(){}[],:'0-9<>|?fiSOV\n\0 "])
    else:
      damaged = damaged[: int(rng.integers(len(sound)))]
    path.write_bytes(damaged)
    refusal(functools.partial(npy.load, mmap=bool(i % 2)), path)


def test_damaged_archives_of_arrays(tmp_path):
  path, rng = tmp_path / 'heads.npz', np.random.default_rng(0)
  weights = {'kernel_2': np.ones((2, 3)), 'bias_2': np.zeros(3)}
  np.savez(path, **weights)
  sound = path.read_bytes()
  read = lambda path: classify.read(path, shared=False)
  assert refusal(read, path) is None
  for i in range(400):
    damaged = bytearray(sound)
    if i % 4:
      damaged[rng.integers(len(sound))] ^= 1 << rng.integers(8)
    else:
      damaged = damaged[: int(rng.integers(len(sound)))]
    path.write_bytes(damaged)
    refusal(read, path)
  for changed in (
    {}, {'kernel_2': weights['kernel_2']}, {'bias_2': np.zeros(3)},
    {**weights, 'bias_2': np.zeros(4)}, {**weights, 'kernel_x': np.zeros(3)},
    {**weights, 'bias_2': np.array([{}, 1, 2])}, {**weights, 'kernel_2': 1.0},
  ):  # fmt: skip
    np.savez(path, **changed)
    assert refusal(read, path)


def test_an_archive_is_asked_for_its_arrays(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.arange(3))
  assert npy.load_npz(path, ('a',))['a'].tolist() == [0, 1, 2]
  with pytest.raises(ValueError, match=r'x\.npz has no array b'):
    npy.load_npz(path, ('b',))
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('notes.txt', 'x')
  with pytest.raises(ValueError, match=r'notes\.txt is not an array'):
    npy.load_npz(path)
  buffer = io.BytesIO()
  np.save(buffer, np.arange(3))
  path.write_bytes(buffer.getvalue())
  with pytest.raises(ValueError, match='not a sound'):
    npy.load_npz(path)
  with pytest.raises(FileNotFoundError):
    npy.load_npz(pathlib.Path('nowhere.npz'))
