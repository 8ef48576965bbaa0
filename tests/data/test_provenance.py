"""What a model was trained on, against what is there later."""

import os
import shutil
import unicodedata

import numpy as np
import pytest

from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources import vectors
from tests import images

CLASSES = ('ant', 'birch', 'cat')
SPLITS = ('train', 'val')


@pytest.fixture
def root(tmp_path):
  return images.write_folder(tmp_path / 'd', classes=CLASSES)


def opened(root):
  return {
    split: datasets.open_source(f'folder:{root}', split) for split in SPLITS
  }


def recorded(root):
  """As it is read back from a checkpoint."""
  sources = opened(root)
  made = provenance.record(sources, sources['train'].class_names)
  return provenance.parse(provenance.plain(made), 'somewhere')


def rename(root, *pairs):
  """Renames class folders in both splits; the pairs may form a cycle."""
  for split in SPLITS:
    for old, _ in pairs:
      os.rename(root / split / old, root / split / f'.{old}')
    for old, new in pairs:
      os.rename(root / split / f'.{old}', root / split / new)


def compared(there, root):
  """The fault and the remark of the training split, the refusal to resume."""
  train = opened(root)['train']
  return (
    *provenance.compare(there, 'train', train),
    provenance.compare_order(there, 'train', train),
  )


def test_the_same_files_are_the_same_dataset(root, tmp_path, monkeypatch):
  there = recorded(root)
  monkeypatch.chdir(tmp_path)
  shutil.copytree(root, 'moved')
  for place in (
    'd',
    'd/',
    './d',
    root,
    f'{root}/',
    'moved',
    '../' + root.parent.name + '/d',
  ):
    assert compared(there, place) == ('', '', ''), place
    assert recorded(place) == there, place


@pytest.mark.parametrize(
  'pairs, fault',
  [
    (
      [('birch', 'elm')],
      'class elm came, class birch went, elm holds the files of birch',
    ),
    (
      [('ant', 'Ant')],
      'class Ant came, class ant went, Ant holds the files of ant',
    ),
    (
      [('ant', 'birch'), ('birch', 'ant')],
      'ant holds the files of birch, birch holds the files of ant',
    ),
    (
      [('ant', 'birch'), ('birch', 'cat'), ('cat', 'ant')],
      'ant holds the files of cat, birch holds the files of ant, cat holds the '
      'files of birch',
    ),
  ],
)
def test_renamed_classes_are_refused(root, pairs, fault):
  there = recorded(root)
  rename(root, *pairs)
  assert compared(there, root) == (fault, '', fault)
  rename(root, *((new, old) for old, new in pairs))
  assert compared(there, root) == ('', '', '')


def test_classes_whose_files_have_one_name_and_size_are_told_apart(tmp_path):
  for split in SPLITS:
    for seed, name in enumerate(('ant', 'birch')):
      folder = tmp_path / split / name
      folder.mkdir(parents=True)
      data = images.encoded(seed, image_format='BMP')
      (folder / '0.bmp').write_bytes(data)
  there = recorded(tmp_path)
  rename(tmp_path, ('ant', 'birch'), ('birch', 'ant'))
  assert 'ant holds the files of birch' in compared(there, tmp_path)[0]


def test_an_added_class_is_refused(root):
  there = recorded(root)
  for split in SPLITS:
    shutil.copytree(root / split / 'ant', root / split / 'aardvark')
  fault, remark, order = compared(there, root)
  assert (fault, remark) == ('class aardvark came', '')
  assert order == 'class aardvark came'


def test_a_class_that_went_leaves_the_others_their_labels(root):
  there = recorded(root)
  for split in SPLITS:
    shutil.rmtree(root / split / 'ant')
  assert compared(there, root) == ('', 'class ant went', 'class ant went')
  names = opened(root)['train'].class_names
  assert names == ('birch', 'cat')
  assert provenance.labels(names, there.class_names) == [1, 2]


def test_a_small_split_says_what_it_lacks(root):
  there = recorded(root)
  shutil.rmtree(root / 'val' / 'cat')
  fault, remark = provenance.compare(there, 'val', opened(root)['val'])
  assert not fault
  assert remark == 'changed are cat (3 files then, 0 files now)'


@pytest.mark.parametrize('change', ['more', 'fewer', 'other', 'renamed'])
def test_other_files_end_a_training_and_nothing_else(root, change):
  there = recorded(root)
  path = root / 'train' / 'ant' / '1.png'
  if change == 'more':
    path.with_name('new.png').write_bytes(images.encoded(7))
  elif change == 'fewer':
    path.unlink()
  elif change == 'other':
    path.write_bytes(images.encoded(7, size=(90, 90)))
  else:
    path.rename(path.with_name('zzz.png'))
  fault, remark, order = compared(there, root)
  now = {
    'more': '3 files then, 4 files now',
    'fewer': '3 files then, 2 files now',
  }
  assert not fault
  assert remark == order == f'changed are ant ({now.get(change, "others")})'


def test_names_in_another_unicode_form_are_the_same(tmp_path):
  composed = unicodedata.normalize('NFC', 'é')
  taken_apart = unicodedata.normalize('NFD', 'é')
  root = images.write_folder(tmp_path / 'd', classes=('cat', composed))
  there = recorded(root)
  rename(root, (composed, taken_apart))
  assert compared(there, root) == ('', '', '')
  train = opened(root)['train']
  assert train.class_names == ('cat', taken_apart)
  assert provenance.labels(train.class_names, there.class_names) == [0, 1]
  # Both at once would be two folders of one class.
  shutil.copytree(root / 'train' / taken_apart, root / 'train' / composed)
  with pytest.raises(ValueError, match='the same name in another Unicode form'):
    recorded(root)


def test_a_unicode_form_that_sorts_elsewhere_ends_a_training(tmp_path):
  """'é' comes after 'f', and its parts before it."""
  root = images.write_folder(tmp_path / 'd', classes=('é', 'f'))
  there = recorded(root)
  assert there.class_names == ('f', 'é')
  rename(root, ('é', unicodedata.normalize('NFD', 'é')))
  assert compared(there, root) == (
    '',
    '',
    'its classes come in another order',
  )
  names = opened(root)['train'].class_names
  assert provenance.labels(names, there.class_names) == [1, 0]


def test_tfds(data_dir):
  def record(split):
    digits = datasets.open_source('digits', split, data_dir)
    return provenance.record({'train': digits}, digits.class_names), digits

  there, digits = record('train[:264]')
  assert (there.name, there.version) == ('digits', '1.0.0')
  assert there.class_names == tuple(map(str, range(10)))
  assert provenance.compare_order(there, 'train', digits) == ''
  _, other = record('train[:265]')
  assert 'changed are' in provenance.compare_order(there, 'train', other)
  by_path, same = record('train[:264]')
  path = datasets.open_source('digits', 'train', data_dir).folder
  same = datasets.open_source(path, 'train[:264]')
  assert provenance.compare(by_path, 'train', same) == ('', '')


def test_vectors(tmp_path):
  def record(label_N, row_ND):
    for split in SPLITS:
      np.save(tmp_path / f'{split}-x.npy', row_ND)
      np.save(tmp_path / f'{split}-y.npy', label_N)
    opened = vectors.open_vectors(str(tmp_path), 'train')
    return provenance.record({'train': opened}, opened.class_names), opened

  row_ND = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
  label_N = np.arange(100) % 5
  there, same = record(label_N, row_ND)
  assert there.class_names == ('0', '1', '2', '3', '4')
  assert provenance.compare_order(there, 'train', same) == ''
  other = label_N.copy()
  other[7] = 0
  _, changed = record(other, row_ND)
  assert provenance.compare_order(there, 'train', changed) == (
    'changed are labels (others)'
  )
  _, changed = record(label_N, row_ND[::-1])
  assert 'rows (others)' in provenance.compare(there, 'train', changed)[1]
  other[7] = 5
  _, changed = record(other, row_ND)
  assert provenance.compare(there, 'train', changed)[0] == 'class 5 came'


@pytest.mark.parametrize(
  'content', [{}, {'name': 'x'}, {'name': 1, 'version': '', 'splits': {}}]
)
def test_a_record_that_is_none_is_named(content):
  with pytest.raises(ValueError, match='run/1: the record of its dataset'):
    provenance.parse(content, 'run/1')
