"""TFDS's own imagenet2012 builder on small archives in ILSVRC2012's layout."""

import importlib.util
import subprocess
import sys

import pytest

from mrl_jax import stages
from mrl_jax.data.sources import datasets
from mrl_jax.workdir import embeddings

ilsvrc2012 = pytest.importorskip(
  'tests.data.ilsvrc2012', reason='scikit-image is not installed'
)


def prepare(*args):
  """In a process of its own, so that TensorFlow stays out of this one."""
  return subprocess.run(
    [sys.executable, '-m', 'mrl_jax.data.prepare', *args],
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
  """A folder where the project's command prepared imagenet2012."""
  if not importlib.util.find_spec('tensorflow'):
    pytest.skip('tensorflow-cpu is not installed')
  path = tmp_path_factory.mktemp('imagenet')
  expected = ilsvrc2012.write_tars(path / 'downloads' / 'manual')
  result = prepare('--dataset=imagenet2012', f'--data_dir={path}')
  assert result.returncode == 0, result.stderr
  assert 'imagenet2012 train: 12 examples' in result.stdout
  assert 'imagenet2012 validation: 5 examples' in result.stdout
  return str(path), expected


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_every_example_is_read_back(imagenet, split):
  data_dir, expected = imagenet
  opened = datasets.open_source('imagenet2012', split, data_dir)
  assert opened.num_classes == 1000
  synsets = ilsvrc2012.synsets()
  found = {}
  for index in range(len(opened)):
    example = opened.read(index)
    found[example.key] = (synsets[example.label], example.data)
  assert found == expected[split]
  assert 'tensorflow' not in sys.modules


def test_training_on_it(imagenet, tmp_path):
  """Streamed, through the stages that ImageNet goes through."""
  from configs import resnet18_mrl

  config = resnet18_mrl.get_config()
  config.update(
    data_dir=imagenet[0],
    mesh={'data': 1},
    encoder='resnet8',
    nesting_dims=(8, 64),
    image_size=16,
    eval_resize=20,
    eval_image_size=16,
    batch_size=6,
    num_epochs=2,
    peak_epoch=1.0,
    eval_batch_size=4,
    dtype='float32',
  )
  config.retrieval.k = 3
  stages.run(config, tmp_path, ('train', 'embed', 'retrieve'))
  workdir = stages.open_workdir(config, tmp_path)
  assert workdir.latest_step() == 4
  embedding_ND, label_N, _ = embeddings.load(workdir.embeddings, 'validation')
  assert embedding_ND.shape == (5, 64)
  assert all(label_N < 1000)


def test_missing_archives(tmp_path):
  if not importlib.util.find_spec('tensorflow'):
    pytest.skip('tensorflow-cpu is not installed')
  result = prepare('--dataset=imagenet2012', f'--data_dir={tmp_path}')
  assert result.returncode == 1
  line = result.stderr.splitlines()[-1]
  assert line.startswith('ValueError: Manual directory')
  assert 'ILSVRC2012_img_train.tar' in line
