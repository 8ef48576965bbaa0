"""A workdir's model, and a dataset that has changed since it was trained."""

import shutil

from flax import nnx
import jax
from jax import numpy as jnp
import msgspec
import numpy as np
import pytest

from configs import digits_mrl
from mrl_jax import stages
from mrl_jax.compare import runs
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources.example import read_checked
from mrl_jax.models import batch_norm
from mrl_jax.stages import build
from mrl_jax.stages import init_from as initial
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.training import state as state_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.state import arrays_of
from mrl_jax.workdir import DATASET_FIELDS
from tests import images
from tests.training.test_checkpoint_faults import make_old

CLASSES = ('ant', 'birch', 'cat')


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return images.write_folder(tmp_path / 'd', classes=CLASSES)


def config_of(dataset='folder:d', **fields):
  config = digits_mrl.get_config()
  config.mesh.data = 1
  config.update(
    dataset=dataset,
    train_split='train',
    eval_split='val',
    nesting_dims=(2, 8),
    eval_dims=(),
    eval_resize=8,
    batch_size=4,
  )
  config.update(fields)
  return config


def trained(path, config, *, model=None, kind='', group=0):
  """A workdir as after a training, which takes no time here."""
  workdir = stages.open_workdir(config, path)
  dataset, *_ = recorded.open_for_training(config, workdir)
  dataset = msgspec.structs.replace(dataset, input=kind, batch_norm_group=group)
  params, batch_stats = {'w': jnp.ones(3)}, {}
  if model:
    found = arrays_of(model)
    params, batch_stats = found['params'], found['batch_stats']
  workdir.path.mkdir()
  workdir.write_config()
  state = state_lib.State(jnp.array(1, jnp.int32), params, batch_stats, ())
  with Checkpoints(workdir.checkpoints, keep=1) as checkpoints:
    checkpoints.save(
      jax.device_put(state),
      workdir.config,
      dataset=provenance.plain(dataset),
    )
  return stages.open_workdir(config, path)


def labels_of(opened):
  examples = [read_checked(opened, i) for i in range(len(opened))]
  return {example.key: example.label for example in examples}


def rename(root, old, new):
  for split in ('train', 'val'):
    (root / split / old).rename(root / split / new)


def identity(config, path='run'):
  """What the marks of the stages depend on, of the dataset."""
  workdir = stages.open_workdir(config, path)
  return workdir.hash_of(), workdir.hash_of(DATASET_FIELDS)


def test_the_path_of_a_dataset_is_free(root, tmp_path):
  config = config_of()
  trained('run', config)
  expected = identity(config)
  shutil.copytree(root, tmp_path / 'moved')
  for dataset in ('folder:d/', f'folder:{root}', 'folder:moved'):
    assert identity(config_of(dataset)) == expected
  # Other files there are another dataset, under the same name or not.
  (root / 'val' / 'ant' / 'new.png').write_bytes(images.encoded(1))
  other = identity(config)
  assert other[0] == expected[0] and other[1] != expected[1]
  # Those that are gone were what the stages that are finished have read.
  shutil.rmtree(root)
  assert identity(config) == expected
  with pytest.raises(ValueError, match='seed is 0 there and 1 now'):
    stages.open_workdir(config_of(seed=1), 'run')


def test_labels_are_found_by_name(root, capsys):
  config = config_of()
  workdir = trained('run', config)
  before = labels_of(recorded.open_mapped(config, 'val', workdir))
  assert set(before.values()) == {0, 1, 2}
  for split in ('train', 'val'):
    shutil.rmtree(root / split / 'ant')
  opened = recorded.open_mapped(config, 'val', workdir)
  assert (opened.num_classes, opened.class_names) == (3, CLASSES)
  after = labels_of(opened)
  assert after == {key: before[key] for key in after} and len(after) == 6
  recorded.open_mapped(config, 'val', workdir)
  said = capsys.readouterr().out
  assert said.count('split val of dataset folder:d is not as it was') == 1
  assert 'class ant went' in said


@pytest.mark.parametrize('stage', ['evaluate', 'embed'])
def test_stages_refuse_renamed_classes(root, stage):
  config = config_of()
  trained('run', config)
  rename(root, 'birch', 'elm')
  with pytest.raises(ValueError) as error:
    stages.run(config, 'run', (stage,))
  assert str(error.value) == (
    'dataset folder:d is not what the model was trained on: class elm came, '
    'class birch went, elm holds the files of birch. Its labels would be '
    'wrong: bring the classes back under their names'
  )


def test_a_training_over_other_files_does_not_go_on(root):
  config = config_of()
  workdir = trained('run', config)
  recorded.open_for_training(config, workdir)
  (root / 'train' / 'ant' / 'new.png').write_bytes(images.encoded(1))
  with pytest.raises(
    ValueError, match=r'began with: changed are ant \(3 files'
  ):
    stages.run(config, 'run', ('train',))
  (root / 'train' / 'ant' / 'new.png').unlink()
  # What it is evaluated on may change.
  (root / 'val' / 'ant' / 'new.png').write_bytes(images.encoded(1))
  recorded.open_for_training(config, workdir)


@pytest.mark.parametrize('kind', ['', 'resident', 'stream'])
def test_a_training_goes_on_with_the_input_it_was_begun_with(kind, monkeypatch):
  config = config_of()
  trained('run', config, kind=kind)
  begun = []

  def choose(*args):
    begun.append(args[-1])
    raise KeyboardInterrupt

  monkeypatch.setattr(inputs, 'choose', choose)
  for path in ('run', 'new'):
    with pytest.raises(KeyboardInterrupt):
      stages.run(config, path, ('train',))
  assert begun == [kind, None]


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_a_training_keeps_the_groups_of_batch_norm(devices, monkeypatch):
  """It was begun on two devices, which had four examples each."""
  config = config_of(batch_size=8, batch_norm_group='device')
  trained('run', config, group=4)
  config.mesh.data = devices
  found = []

  def set_group(model, group):
    found.append(group)
    raise KeyboardInterrupt

  monkeypatch.setattr(batch_norm, 'set_group', set_group)
  for path in ('run', 'new'):
    with pytest.raises(KeyboardInterrupt):
      stages.run(config, path, ('train',))
  assert found == [4, 8 // devices]


def test_groups_of_batch_norm_that_do_not_fit_the_devices_any_more():
  config = config_of(batch_size=6, batch_norm_group='device')
  trained('run', config, group=2)
  config.mesh.data = 2
  line = 'batch_norm_group 2: must divide the 3 examples of a device'
  with pytest.raises(ValueError, match=line):
    stages.run(config, 'run', ('train',))


def test_the_classes_are_known_without_the_dataset(root):
  config = config_of()
  workdir = trained('run', config)
  shutil.rmtree(root)
  assert recorded.class_names(config, workdir) == CLASSES


def test_a_head_of_other_classes_than_the_datasets_is_refused(root):
  for split in ('train', 'val'):
    for name in CLASSES[2:]:
      shutil.rmtree(root / split / name)
  line = r'num_classes 200: dataset folder:d has 2 \(ant, birch\): must be 0'
  for modes in (('train',), ('train', 'evaluate')):
    with pytest.raises(ValueError, match=line):
      stages.run(config_of(num_classes=200), 'run', modes)


def test_a_workdir_without_a_record_goes_on_and_says_so(root, capsys):
  config = config_of()
  make_old(trained('run', config).checkpoints / '1', 'fingerprints', 'dataset')
  for dataset in ('folder:d', 'folder:d/', f'folder:{root}'):
    workdir = stages.open_workdir(config_of(dataset), 'run')
  with pytest.raises(ValueError, match=r'dataset is .* there and .* now'):
    stages.open_workdir(config_of('folder:elsewhere'), 'run')
  recorded.warn_if_unknown(config, workdir)
  assert 'was trained before classes were recorded' in capsys.readouterr().out
  labels = labels_of(recorded.open_mapped(config, 'val', workdir))
  assert labels['val/cat/120.png'] == 2
  # Nothing but the number is known of the classes.
  more = config_of(num_classes=5)
  assert recorded.open_mapped(more, 'val', workdir).num_classes == 3
  assert 'num_classes 5: dataset folder:d has 3' in capsys.readouterr().out
  with pytest.raises(ValueError, match=r'num_classes 2: .* has 3 \(ant, birch'):
    recorded.open_mapped(config_of(num_classes=2), 'val', workdir)


@pytest.fixture(scope='module')
def model():
  """A model of three classes."""
  return build.model(config_of(), 3)


def without_head(model):
  """A copy of the model, whose head is all zeros."""
  copy = nnx.clone(model)
  head = nnx.state(copy.head, nnx.Param)
  nnx.update(copy.head, jax.tree.map(jnp.zeros_like, head))
  return copy


def head_of(model):
  return jax.device_get(arrays_of(model.head)['params'])


def test_a_head_is_taken_over_by_the_names_of_its_classes(root, model):
  trained('run', config_of(), model=model)
  tuned = config_of('folder:e', init_from='run', num_classes=3)
  images.write_folder(root.parent / 'e', classes=('birch', 'cat'))
  # The head has a class more than the dataset: the names say which are which.
  workdir = stages.open_workdir(tuned, 'tuned')
  dataset, train, _ = recorded.open_for_training(tuned, workdir)
  assert dataset.class_names == CLASSES
  assert set(labels_of(train).values()) == {1, 2}
  started = without_head(model)
  initial.initialise(tuned, started, ('cat', 'ant', 'birch'))
  for name, x in head_of(model).items():
    np.testing.assert_array_equal(head_of(started)[name], x[..., [2, 0, 1]])


def test_a_head_of_as_many_other_classes_stays_fresh(model, capsys):
  trained('run', config_of(), model=model)
  tuned = config_of(init_from='run')
  started = without_head(model)
  initial.initialise(tuned, started, ('ant', 'birch', 'elm'))
  assert not any(x.any() for x in head_of(started).values())
  said = 'whose head is of other classes, with fresh heads'
  assert said in capsys.readouterr().out


def test_an_import_has_the_classes_of_its_dataset(root, tmp_path):
  found = recorded.of_import(config_of())
  assert (found.name, found.class_names) == ('folder', CLASSES)
  assert found.splits == {}
  # TFDS knows them before the images are there.
  config = config_of('imagenet2012')
  config.data_dir = str(tmp_path)
  names = recorded.of_import(config).class_names
  assert (len(names), names[0]) == (1000, 'n01440764')
  with pytest.raises(
    ValueError, match=r'num_classes 4: dataset folder:d has 3'
  ):
    recorded.of_import(config_of(num_classes=4))
  with pytest.raises(ValueError, match='nowhere: no such folder'):
    recorded.of_import(config_of('folder:nowhere'))


def test_runs_are_compared_by_what_they_were_trained_on(root):
  def run_of(name, dataset):
    config = config_of(dataset)
    return runs.Run('MRL', config, trained(name, config), {}, {})

  one = run_of('one', 'folder:d')
  same = run_of('same', f'folder:{root}/')
  runs.check_alike([one, same])
  (root / 'val' / 'ant' / 'new.png').write_bytes(images.encoded(1))
  with pytest.raises(ValueError, match='trained on other classes or files'):
    runs.check_alike([one, run_of('other', 'folder:d')])
