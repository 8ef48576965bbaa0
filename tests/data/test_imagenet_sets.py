"""The sets for ImageNet's classes, as TFDS's own builders write them.

From small archives in each set's layout; only their checksums are not those
that TFDS knows.
"""

import importlib.util
import subprocess
import sys

import pytest

from mrl_jax.data.sources import eval_sets
from mrl_jax.data.sources.example import read_checked

ilsvrc2012 = pytest.importorskip(
  'tests.data.ilsvrc2012', reason='scikit-image is not installed'
)

NAMES = ('imagenet_a', 'imagenet_r', 'imagenet_v2', 'imagenet_sketch')
REAL = ((0, 999), (), (5,))
# In a process of its own, so that TensorFlow stays out of this one.
PREPARE = """
import pathlib
import sys

import tensorflow_datasets as tfds

from mrl_jax.data.prepare import __main__ as prepare

data_dir, *datasets = sys.argv[1:]
manual_dir = pathlib.Path(data_dir, 'downloads', 'manual')
for dataset in datasets:
  infos = tfds.builder_cls(dataset.partition('/')[0]).url_infos
  for url, info in infos.items():
    if info.filename and (manual_dir / info.filename).exists():
      path = manual_dir / info.filename
      infos[url] = tfds.download.checksums.compute_url_info(path)
  prepare.prepare(dataset, data_dir)
"""


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """The folder of the sets, and what is in each."""
  if not importlib.util.find_spec('tensorflow'):
    pytest.skip('tensorflow-cpu is not installed')
  path = tmp_path_factory.mktemp('sets')
  manual_dir = path / 'downloads' / 'manual'
  expected = ilsvrc2012.write_sets(manual_dir)
  tars = ilsvrc2012.write_tars(manual_dir, num_validation=len(REAL))
  expected['imagenet_real'] = tars['validation']
  ilsvrc2012.write_real(manual_dir, REAL)
  datasets = [eval_sets.KNOWN[name].dataset for name in expected]
  result = subprocess.run(
    [sys.executable, '-c', PREPARE, path, *datasets],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  return str(path), expected


def read(opened):
  """What is in a set, by key."""
  found = {}
  for index in range(len(opened.source)):
    example = read_checked(opened.source, index)
    found[example.key] = (opened.class_names[example.label], example.data)
  return found


@pytest.mark.parametrize('name', NAMES)
def test_every_example_has_its_class(prepared, name):
  data_dir, expected = prepared
  # A model whose classes are in another order than TFDS's.
  classes = tuple(ilsvrc2012.synsets()[::-1])
  opened = eval_sets.open_set(name, classes, data_dir)
  assert read(opened) == expected[name]
  own = name in ('imagenet_a', 'imagenet_r')
  assert opened.source.num_classes == (200 if own else 1000)
  if own:
    members = [classes[member] for (member,) in opened.members]
    assert members == list(opened.class_names)
  assert opened.labels is None


@pytest.mark.parametrize('step', [1, -1])
def test_real_has_several_labels_or_none(prepared, step):
  data_dir, expected = prepared
  synsets = ilsvrc2012.synsets()
  classes = tuple(synsets[::step])
  opened = eval_sets.open_set('imagenet_real', classes, data_dir)
  assert read(opened) == expected['imagenet_real']
  keys = [opened.source.read(i).key for i in range(len(REAL))]
  found = [[classes[label] for label in opened.labels(i)] for i in range(3)]
  assert dict(zip(keys, found, strict=True)) == {
    key: [synsets[label] for label in labels]
    for key, labels in zip(sorted(keys), REAL, strict=True)
  }
