"""Other sets: what is accepted, whose classes they have, how they count."""

import json

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mrl_jax.data.images import decode
from mrl_jax.data.sources import eval_sets
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.example import read_checked
from mrl_jax.data.sources.tfds import TfdsSource
from tests import images

IMAGENET = tfds.core.tfds_path('datasets/imagenet2012/labels.txt')


@pytest.fixture(scope='module')
def imagenet():
  return tuple(IMAGENET.read_text().split())


@pytest.mark.parametrize(
  'entry, name, split',
  [
    ('imagenet_a', 'imagenet_a', 'test'),
    ('imagenet_real', 'imagenet_real', 'validation'),
    ('imagenet_r=folder:/r', 'imagenet_r', ''),
    ('folder:/path/to/my set', 'my_set', ''),
    ('cifar10_corrupted/fog_1@test', 'cifar10_corrupted_fog_1_test', 'test'),
  ],
)
def test_entries(entry, name, split):
  found = eval_sets.parse(entry)
  assert (found.name, found.split) == (name, split)


@pytest.mark.parametrize(
  'entries, match',
  [
    (('imagenet_b',), "'imagenet_b': must be one of .*imagenet_v2"),
    (('objectnet',), 'TFDS does not have it: give objectnet=folder:/path'),
    (('mine=folder:/x',), 'must be NAME=folder:/path'),
    (('imagenet_a=/x',), 'must be NAME=folder:/path'),
    (('folder:/x/val',), 'the name val is taken'),
    (('folder:',), 'must be one of'),
    (('folder:/a/x', 'folder:/b/x'), 'x comes twice'),
  ],
)
def test_bad_entries(entries, match):
  with pytest.raises(ValueError, match=match):
    eval_sets.check(entries)


@pytest.mark.parametrize(
  'name, classes, members',
  [
    ('imagenet_a', 200, 200),
    ('imagenet_r', 200, 200),
    ('objectnet', 113, 125),
  ],
)
def test_tables_are_of_imagenets_classes(imagenet, name, classes, members):
  table = json.loads((eval_sets.TABLES / f'{name}.json').read_text())
  wnids = [wnid for row in table.values() for wnid in row]
  assert (len(table), len(wnids)) == (classes, members)
  assert len(set(wnids)) == members and set(wnids) <= set(imagenet)
  assert list(table) == sorted(table)


def test_wordnets_groups(imagenet):
  groups = json.loads((eval_sets.TABLES / 'wordnet_30.json').read_text())
  assert len(groups) == 484 and set(groups) <= set(imagenet)
  assert len(set(groups.values())) == 30
  # A wolf, an English springer, a bulletproof vest.
  assert groups['n02114367'] == 'canine'
  assert groups['n02102040'] == 'sporting dog'
  assert groups['n02916936'] in ('garment', 'protective covering')


def test_a_folder_of_the_models_classes(tmp_path):
  images.write_folder(tmp_path, splits=(), classes=('cat', 'dog'), each=2)
  opened = eval_sets.open_set(f'folder:{tmp_path}', ('ant', 'cat', 'dog'))
  assert opened.members is None and len(opened.source) == 4
  read = [opened.source.read(i) for i in range(4)]
  assert [example.label for example in read] == [1, 1, 2, 2]
  assert read[0].key == 'cat/0.png'
  with pytest.raises(ValueError, match=r'2 of its folders .*: cat, dog$'):
    eval_sets.open_set(f'folder:{tmp_path}', ('ant',))
  with pytest.raises(ValueError, match='no such folder'):
    eval_sets.open_set('folder:/nowhere', ('ant',))


def test_objectnet_is_a_folder_with_a_border(tmp_path, imagenet):
  for name in ('alarm_clock', 'zebra_crossing'):
    (tmp_path / name).mkdir()
    frame = Image.new('RGB', (10, 8), 'red')
    frame.paste((0, 255, 0), (2, 2, 8, 6))
    frame.save(tmp_path / name / '0.png')
  (tmp_path / 'alarm_clock' / '1.png').write_bytes(images.encoded(0)[:60])
  opened = eval_sets.open_set(f'objectnet=folder:{tmp_path}', imagenet)
  assert len(opened.source) == 2  # ImageNet has no crossings.
  example = opened.source.read(0)
  pixels = np.asarray(decode.open_rgb(example.data))
  assert pixels.shape == (4, 6, 3)
  assert (pixels == [[[0, 255, 0]]]).all()
  members = opened.members[example.label]
  assert opened.class_names[example.label] == 'alarm_clock'
  # An analogue and a digital one.
  assert [imagenet[m] for m in members] == ['n02708093', 'n03196217']
  of_model_C = opened.of_model(1000)
  assert (of_model_C >= 0).sum() == 125
  assert (of_model_C[list(members)] == example.label).all()
  # Whoever decodes the damaged one counts it.
  with pytest.raises(decode.DamagedImageError):
    decode.open_rgb(opened.source.read(1).data)
  frame.crop((0, 0, 10, 4)).save(tmp_path / 'alarm_clock' / '2.png')
  opened = eval_sets.open_set(f'objectnet=folder:{tmp_path}', imagenet)
  with pytest.raises(ValueError, match=r'alarm_clock/2\.png: 10x4 pixels'):
    opened.source.read(2)


def test_sets_of_imagenet_need_its_classes(tmp_path):
  with pytest.raises(ValueError, match=r'imagenet_a: 200 of its classes .* 2:'):
    eval_sets.open_set(f'imagenet_a=folder:{tmp_path}', ('cat', 'dog'))


class Fake:
  """As TFDS has them, with the labels of all of ImageNet."""

  def __init__(self, classes):
    self.class_names, self.num_classes = classes, len(classes)

  def __len__(self):
    return 2

  def read(self, index):
    label = self.class_names.index('n01498041') if index else 0
    return Example(b'', label, f'{index}')

  def labels(self, index):
    return (3, 4)[:index]


def test_tfds_labels_become_those_of_the_set(monkeypatch, imagenet):
  seen = []

  def fake(*args, **kwargs):
    seen.append((args, kwargs))
    return Fake(imagenet)

  monkeypatch.setattr('mrl_jax.data.sources.tfds.TfdsSource', fake)
  opened = eval_sets.open_set('imagenet_a', imagenet)
  assert opened.source.num_classes == 200
  assert opened.source.read(1).label == 0
  with pytest.raises(ValueError, match=r'label -1 of 0'):
    read_checked(opened.source, 0)  # Not among the 200.
  # A model whose classes are in another order.
  backwards = imagenet[::-1]
  opened = eval_sets.open_set('imagenet_v2', backwards)
  assert opened.source.read(0).label == 999
  opened = eval_sets.open_set('imagenet_real', imagenet)
  assert [opened.labels(i) for i in range(2)] == [(), (3,)]
  assert seen[-1][1] == {
    'label': 'original_label',
    'labels': 'real_label',
    'as_seen': 'auto',
  }


class Several(tfds.core.GeneratorBasedBuilder):
  """Examples with several labels, or none."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    classes = tfds.features.ClassLabel(num_classes=3)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format='png'),
          'original_label': classes,
          'real_label': tfds.features.Sequence(classes),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {'test': self._generate_examples()}

  def _generate_examples(self):
    import io

    for i, labels in enumerate(([2, 0], [], [1])):
      yield (
        i,
        {
          'image': io.BytesIO(images.encoded(i)),
          'original_label': i,
          'real_label': labels,
        },
      )


def test_several_labels_are_read_with_the_image(tmp_path):
  tfds.disable_progress_bar()
  builder = tfds.builder(
    'several', data_dir=tmp_path, file_format='array_record'
  )
  builder.download_and_prepare()
  opened = TfdsSource(
    'several',
    'test',
    str(tmp_path),
    label='original_label',
    labels='real_label',
  )
  by_label = {opened.read(i).label: opened.labels(i) for i in range(3)}
  assert by_label == {0: (2, 0), 1: (), 2: (1,)}
  with pytest.raises(ValueError, match='needs features image and label'):
    TfdsSource('several', 'test', str(tmp_path))
