"""Starting from another run's checkpoint, and going on from there."""

import shutil

import chex
import jax
import pytest

from mrl_jax import stages
from mrl_jax.stages import build
from mrl_jax.stages import init_from as initial
from mrl_jax.training import fingerprint
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.state import arrays_of
from tests.training.test_fingerprint import flip

PATTERNS = ('layer3.0.conv2', 'head')


def shrunk(data_dir):
  from tests import conftest

  config = conftest.shrunk(data_dir)
  config.num_epochs = 1
  config.peak_epoch = 0.0
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data_dir):
  """A workdir with a checkpoint of step 4, and its config."""
  config = shrunk(data_dir)
  path = tmp_path_factory.mktemp('trained')
  stages.run(config, path, ('train',))
  return config, path


def finetune(config, path, **fields):
  tuned = config.copy_and_resolve_references()
  with tuned.unlocked():
    tuned.update(init_from=str(path), trainable=PATTERNS, **fields)
  return tuned


def restored(path, step):
  with Checkpoints(path / 'checkpoints') as checkpoints:
    return checkpoints.restore_model(checkpoints.model_shapes(step), step)


def test_a_run_starts_from_the_encoder_of_another(trained, tmp_path, capsys):
  config, path = trained
  tuned = finetune(config, path, nesting_dims=(4, 16))
  tuned.eval_dims = ()
  stages.run(tuned, tmp_path, ('train', 'evaluate'))
  assert f'starts from {path / "checkpoints" / "4"} (resnet8), with fresh' in (
    capsys.readouterr().out
  )
  before, after = restored(path, 4), restored(tmp_path, 4)
  chex.assert_trees_all_equal(before['batch_stats'], after['batch_stats'])
  names = fingerprint.by_path(
    jax.tree.map(
      lambda a, b: bool((a != b).any()),
      before['params']['encoder'],
      after['params']['encoder'],
    )
  )
  changed = {name for name, differs in names.items() if differs}
  assert changed == {'layer3.0.conv2.conv.kernel'}


@pytest.mark.parametrize('end', ['', 'checkpoints', 'checkpoints/4'])
def test_heads_of_the_same_shape_are_taken_over(trained, end):
  config, path = trained
  tuned = finetune(config, path / end)
  model = build.model(tuned, 10)
  initial.initialise(tuned, model)
  chex.assert_trees_all_equal(
    fingerprint.by_path(arrays_of(model)),
    fingerprint.by_path(restored(path, 4)),
  )


def test_heads_of_other_widths_stay_fresh(trained):
  config, path = trained
  # As many rows, of other heads.
  tuned = finetune(config, path, nesting_dims=(4, 6, 64))
  model, fresh = build.model(tuned, 10), build.model(tuned, 10)
  initial.initialise(tuned, model)
  chex.assert_trees_all_equal(arrays_of(model.head), arrays_of(fresh.head))


def test_a_damaged_start_is_refused(trained, tmp_path):
  config, path = trained
  shutil.copytree(path / 'checkpoints', tmp_path / 'checkpoints')
  flip(tmp_path / 'checkpoints/4/model')
  tuned = finetune(config, tmp_path)
  with pytest.raises(ValueError, match=r'4 (is damaged|cannot be read) \('):
    initial.initialise(tuned, build.model(tuned, 10))


def test_resumed_it_needs_no_start_and_gives_the_same_bits(trained, tmp_path):
  """Also with the run that it started from gone."""
  config, path = trained
  moved = tmp_path / 'moved'
  path.rename(moved)
  tuned = finetune(config, moved, num_epochs=2, micro_batches=2)
  stages.run(tuned, tmp_path / 'whole', ('train',))
  stages.run(tuned, tmp_path / 'cut', ('train',))
  (tmp_path / 'cut/checkpoints/8').rename(tmp_path / 'gone')
  (tmp_path / 'cut/stages.json').unlink()
  moved.rename(path)
  stages.run(tuned, tmp_path / 'cut', ('train',))
  chex.assert_trees_all_equal(
    restored(tmp_path / 'whole', 8), restored(tmp_path / 'cut', 8)
  )


def test_another_encoder_is_refused(trained):
  config, path = trained
  tuned = finetune(config, path, encoder='resnet20')
  with pytest.raises(
    ValueError, match=r'\(resnet8\): another encoder .* absent there and'
  ):
    initial.initialise(tuned, build.model(tuned, 10))


@pytest.mark.parametrize('there', ['', 'empty', 'nowhere'])
def test_a_start_that_is_none_is_refused(trained, tmp_path, there):
  (tmp_path / 'empty').mkdir()
  tuned = finetune(trained[0], tmp_path / there)
  with pytest.raises(ValueError, match=r'init_from .* must be a workdir with'):
    initial.initialise(tuned, build.model(tuned, 10))


def test_patterns_that_match_nothing_are_refused(trained, tmp_path):
  config, path = trained
  tuned = finetune(config, path)
  tuned.trainable = ('layer4.2', 'head')
  with pytest.raises(ValueError, match=r'trainable layer4\.2: matches no'):
    stages.run(tuned, tmp_path / 'new', ('train',))
  # The lock of a workdir needs its folder; nothing else is written.
  assert not list((tmp_path / 'new').glob('[!.]*'))
