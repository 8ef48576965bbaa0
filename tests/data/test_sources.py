import importlib.util
import io
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mrl_jax.data.prepare import __main__ as prepare
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import tfds_builder
from tests import images


def open_folder(root, split='train'):
  return datasets.open_source(f'folder:{root}', split)


def test_digits(data_dir):
  train = datasets.open_source('digits', 'train', data_dir)
  test = datasets.open_source('digits', 'test', data_dir)
  assert (len(train), len(test), train.num_classes) == (1348, 449, 10)
  example = train.read(5)
  assert example.key == 'train[5]'
  assert Image.open(io.BytesIO(example.data)).size == (8, 8)
  assert len(datasets.open_source('digits', 'train[:50%]', data_dir)) == 674


def test_digits_are_all_there(data_dir):
  """Every one of scikit-learn's images, once, with its label."""
  from sklearn.datasets import load_digits

  found = []
  for split in ('train', 'test'):
    records = datasets.open_source('digits', split, data_dir)
    for index in range(len(records)):
      example = records.read(index)
      pixels = np.asarray(Image.open(io.BytesIO(example.data)))
      found.append((pixels.tobytes(), example.label))
  digits = load_digits()
  pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
  expected = [
    (image.tobytes(), label)
    for image, label in zip(pixels, digits.target, strict=True)
  ]
  assert sorted(found) == sorted(expected)


def test_folder(tmp_path):
  root = images.write_folder(tmp_path)
  (root / 'train' / 'cat' / '.DS_Store').write_text('hidden')
  train = open_folder(root)
  assert (len(train), train.num_classes) == (6, 2)
  assert [train.read(i).label for i in range(6)] == [0, 0, 0, 1, 1, 1]
  assert train.read(3).key == 'train/dog/10.png'
  assert train.read(3).data == images.encoded(10)
  assert open_folder(root, 'val').read(0).data == images.encoded(100)


def test_folder_without_splits_is_split_by_name(tmp_path):
  root = images.write_folder(tmp_path, splits=(), each=10, classes='abcdef')

  def keys(split):
    opened = open_folder(root, split)
    return {opened.read(i).key for i in range(len(opened))}

  train, val = keys('train'), keys('val')
  assert len(train | val) == 60
  assert not train & val
  assert 1 <= len(val) <= 15
  # A new image moves no other.
  (root / 'a' / 'new.png').write_bytes(images.encoded(1))
  assert keys('train') - {'a/new.png'} == train
  assert keys('val') - {'a/new.png'} == val


def test_folder_refuses_an_empty_class(tmp_path):
  root = images.write_folder(tmp_path)
  (root / 'train' / 'eel').mkdir()
  with pytest.raises(ValueError, match='eel is empty'):
    open_folder(root)


@pytest.mark.parametrize(
  'name, content',
  [('notes.txt', b'hello'), ('x.png', b'not a png'), ('y.jpg', b'')],
)
def test_folder_refuses_a_file_that_is_no_image(tmp_path, name, content):
  root = images.write_folder(tmp_path)
  (root / 'train' / 'dog' / name).write_bytes(content)
  with pytest.raises(ValueError, match=f'dog/{name} is not an image'):
    open_folder(root)


def test_folder_refuses_classes_that_training_lacks(tmp_path):
  root = images.write_folder(tmp_path)
  folder = root / 'val' / 'eel'
  folder.mkdir()
  (folder / '0.png').write_bytes(images.encoded(0))
  with pytest.raises(ValueError, match='eel'):
    open_folder(root, 'val')


def test_a_split_may_lack_a_class(tmp_path):
  root = images.write_folder(tmp_path)
  shutil.rmtree(root / 'val' / 'cat')
  opened = open_folder(root, 'val')
  assert [opened.read(i).label for i in range(len(opened))] == [1, 1, 1]


def test_missing_folder_and_split(tmp_path):
  with pytest.raises(ValueError, match='has no path'):
    datasets.open_source('folder:', 'train')
  with pytest.raises(ValueError, match='nowhere: no such folder'):
    open_folder(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='no class folders'):
    open_folder(tmp_path)
  root = images.write_folder(tmp_path)
  with pytest.raises(ValueError, match=r"'test'.*\('train', 'val'\)"):
    open_folder(root, 'test')


def test_missing_imagenet_says_how_to_get_it(tmp_path):
  with pytest.raises(ValueError) as error:
    datasets.open_source('imagenet2012', 'train', str(tmp_path))
  message = str(error.value)
  assert '\n' not in message
  for part in (
    'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into '
    f'{tmp_path}/downloads/manual',
    'pip install tensorflow-cpu',
    'python -m mrl_jax.data.prepare --dataset=imagenet2012 '
    f'--data_dir={tmp_path}',
  ):
    assert part in message
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'dataset, split, match',
  [
    ('imagnet2012', 'train', "'imagnet2012': not known"),
    ('digits', 'val', "Unknown split 'val'"),
    ('digits:9.9.9', 'train', "'digits:9.9.9': .*only: 1.0.0"),
    ('digits', 'train[', r"split 'train\['"),
    ('digits', 'test[:0]', r"split 'test\[:0\]'"),
  ],
)
def test_unknown_names(data_dir, dataset, split, match):
  with pytest.raises(ValueError, match=match):
    datasets.open_source(dataset, split, data_dir)


def test_two_processes_may_prepare_the_digits_at_once(tmp_path):
  command = (
    'from mrl_jax.data.sources import datasets; '
    f'print(len(datasets.open_source("digits", "test", "{tmp_path}")))'
  )
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', command],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  assert [process.communicate() for process in processes] == [('449\n', '')] * 2


def test_a_leftover_folder_does_not_change_the_format(tmp_path):
  """TFDS leaves one when it fails; TFRecord would have no random access."""
  (tmp_path / 'imagenet2012').mkdir()
  builder = tfds_builder.find('imagenet2012', str(tmp_path))
  assert builder.info.file_format.value == 'array_record'


def test_a_format_without_random_access(data_dir, tmp_path):
  shutil.copytree(f'{data_dir}/digits', tmp_path / 'digits')
  (path,) = tmp_path.glob('digits/*/dataset_info.json')
  text = path.read_text()
  assert '"array_record"' in text
  path.write_text(text.replace('"array_record"', '"tfrecord"'))
  match = (
    f'digits is prepared as tfrecord, which .*: move {path.parent} away, then '
    f'run: .* --dataset=digits --data_dir={tmp_path}$'
  )
  with pytest.raises(ValueError, match=match):
    datasets.open_source('digits', 'train', str(tmp_path))
  # Nor may the command say that all is well.
  builder = tfds_builder.find('digits', str(tmp_path))
  with pytest.raises(ValueError, match=match):
    tfds_builder.check_random_access('digits', builder)
  with pytest.raises(ValueError, match=r'tfrecord, .*: give its TFDS name'):
    datasets.open_source(str(path.parent), 'train')


@pytest.mark.parametrize(
  'said, advice',
  [
    (
      'Failed to get url https://people.eecs.berkeley.edu/~hendrycks/'
      'imagenet-a.tar. HTTP code: 404.',
      'download it yourself: https://people.eecs.berkeley.edu/~hendrycks/'
      'imagenet-a.tar as {}/downloads/manual/imagenet-a.tar, and run',
    ),
    ('reached end of file', 'is an archive in {}/downloads/manual incomplete'),
  ],
)
def test_what_tfds_cannot_prepare(monkeypatch, tmp_path, said, advice):
  def fail(*args, **kwargs):
    raise tfds.download.DownloadError(said)

  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: True)
  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
  with pytest.raises(ValueError) as error:
    prepare.prepare('imagenet_a', str(tmp_path))
  message = str(error.value)
  assert message.startswith(f'dataset imagenet_a: DownloadError: {said}; ')
  assert advice.format(tmp_path) in message


def test_a_full_disk_is_told_as_it_is(monkeypatch, tmp_path):
  def fail(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: True)
  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
  with pytest.raises(ValueError, match=r'No space left on device$'):
    prepare.prepare('imagenet_a', str(tmp_path))
