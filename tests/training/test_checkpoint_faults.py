"""Only damage to a checkpoint is called damage, and all of it is noticed."""

import dataclasses
import errno
import json
import random
import shutil

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax.training import state as state_lib
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.saved_step import SavedStep

# Orbax leaves other reads to themselves where one of them fails.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)
CONFIG = {'seed': 1}
DATASET = {'class_names': ['a', 'b']}


def state_of(step, *, classes=7, rows=12, width=5, dtype=jnp.float32):
  """Encoder, head and optimizer, in small."""
  rng = np.random.default_rng(step)
  params = {
    'encoder': {'kernel': rng.normal(size=(width, 4)).astype(dtype)},
    'head': {
      'kernel': rng.normal(size=(rows, classes)).astype(dtype),
      'bias': np.zeros((2, classes), dtype),
    },
  }
  return jax.device_put(
    state_lib.State(
      step=jnp.array(step, jnp.int32),
      params=params,
      batch_stats={'encoder': {'mean': np.ones(4, np.float32)}},
      opt_state=(jax.tree.map(np.zeros_like, params),),
    )
  )


def save(path, states, **kwargs):
  with Checkpoints(path, keep=2) as checkpoints:
    for i, state in enumerate(states):
      checkpoints.save(state, CONFIG, 0.5 + i, dataset=DATASET, **kwargs)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  path = tmp_path_factory.mktemp('made')
  save(path, [state_of(1), state_of(2)])
  return path


@pytest.fixture
def path(made, tmp_path):
  """Checkpoints of the steps 1 and 2."""
  return shutil.copytree(made, tmp_path / 'checkpoints')


def refusal(path, like, step=2):
  with pytest.raises(ValueError) as error, Checkpoints(path) as checkpoints:
    checkpoints.restore(like, step)
  line = str(error.value)
  assert '\n' not in line and line.startswith(f'checkpoint {path}/{step} ')
  return line.removeprefix(f'checkpoint {path}/{step} ')


def test_what_the_run_was_trained_on_is_saved(path):
  assert SavedStep(path, 2).read('dataset') == DATASET
  assert SavedStep(path, 2).read('config') == CONFIG
  (path / '2/dataset/metadata').write_text('{"class_names": ["b", "a"]}')
  damaged = r'2 is damaged \(not as saved: dataset\)'
  with pytest.raises(ValueError, match=damaged):
    SavedStep(path, 2).read('dataset')


@pytest.mark.parametrize(
  'other, cause',
  [
    ({'classes': 8}, 'another num_classes (7 there, 8 here)'),
    ({'rows': 13}, 'other nesting_dims'),
    ({'width': 6}, 'another encoder, or input of another width'),
    ({'dtype': jnp.bfloat16}, 'another dtype (float32 there, bfloat16 here)'),
  ],
)
def test_another_model_is_not_damage(path, other, cause):
  line = refusal(path, state_of(2, **other))
  assert line.startswith('is of another model than this, and not damaged: ')
  assert line.endswith(f': {cause}')
  assert 'away' not in line and 'without' not in line


def test_another_encoder_or_optimizer_is_not_damage(path):
  state = state_of(2)
  params = dict(state.params, encoder={'stem': jnp.zeros(3)})
  line = refusal(path, dataclasses.replace(state, params=params))
  assert (
    'model.params.encoder.kernel is float32 [5, 4] there and absent' in line
  )
  assert line.endswith('another encoder')
  line = refusal(path, dataclasses.replace(state, opt_state=()))
  assert 'not damaged: optimizer.opt_state.0.' in line
  assert 'another optimizer, or none, as in an imported model' in line


def files_of(path):
  return sorted(x for x in path.rglob('*') if x.is_file())


def test_no_damage_passes(path):
  """Each file cut, gone, or with a bit flipped: refused, or of no effect."""
  expected = jax.device_get(state_of(2))
  rng = random.Random(0)
  counts = {'refused': 0, 'no effect': 0}
  for file in files_of(path / '2'):
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    case = rng.choice([None, data[: len(data) // 2], bytes(flipped)])
    file.unlink()
    if case is not None:
      file.write_bytes(case)
    try:
      with Checkpoints(path) as checkpoints:
        state = checkpoints.restore(state_of(2), 2)
        found = (
          SavedStep(path, 2).read('config'),
          SavedStep(path, 2).read('dataset'),
        )
        assert checkpoints.best_step == 2
      chex.assert_trees_all_equal(jax.device_get(state), expected)
      assert found == (CONFIG, DATASET)
      counts['no effect'] += 1
    except ValueError as error:
      line = str(error)
      assert line.startswith(f'checkpoint {path}/2 ') and 'damaged' in line
      assert 'not damaged' not in line
      assert line.endswith('the run goes on from the one before it, of step 1')
      counts['refused'] += 1
    file.write_bytes(data)
  assert counts['refused'] > 10, counts


@pytest.mark.parametrize(
  'pattern, change, words',
  [
    ('model/manifest.ocdbt', 'cut', 'a file is cut short'),
    ('model/manifest.ocdbt', 'gone', 'a file is missing'),
    ('model/_METADATA', 'gone', 'a file is missing'),
    ('config/metadata', 'cut', 'config/metadata is not JSON'),
    ('config/metadata', 'gone', 'config/metadata is missing'),
    ('metrics/metrics', 'gone', 'metrics/metrics is missing'),
    ('metrics/metrics', 'other', 'not as saved: metrics'),
  ],
)
def test_damage_is_named(path, pattern, change, words):
  file = path / '2' / pattern
  data = file.read_bytes()
  file.unlink()
  if change != 'gone':
    other = data.replace(b'1.5', b'9.5')
    file.write_bytes(data[: len(data) // 2] if change == 'cut' else other)
  with pytest.raises(ValueError) as error, Checkpoints(path) as checkpoints:
    checkpoints.restore(state_of(2), 2)
    SavedStep(path, 2).read('config')
  assert words in str(error.value) and 'damaged' in str(error.value)


def test_shapes_changed_on_disk_are_damage_and_not_another_model(path):
  """Metadata that reads well is compared with what was saved."""
  save(path / 'other', [state_of(2, classes=8)])
  shutil.rmtree(path / '2' / 'model')
  shutil.copytree(path / 'other' / '2' / 'model', path / '2' / 'model')
  assert refusal(path, state_of(2)).startswith(
    'is damaged (not as saved: names, dtypes and shapes of model)'
  )


def test_without_its_fingerprints_a_checkpoint_is_refused(path):
  shutil.rmtree(path / '2' / 'fingerprints')
  line = refusal(path, state_of(2))
  assert line.startswith('is damaged (its folder fingerprints is missing)')
  (path / '1/fingerprints/metadata').write_text('{}')
  assert 'is damaged' in refusal(path, state_of(1), step=1)


def test_from_before_fingerprints_it_is_read_and_said(path, capsys):
  make_old(path / '2')
  with Checkpoints(path) as checkpoints:
    restored = checkpoints.restore(state_of(2), 2)
    assert SavedStep(path, 2).read('config') == CONFIG
    assert SavedStep(path, 2).read('dataset') is None
  chex.assert_trees_all_equal(restored, state_of(2))
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 1
  assert 'whether its arrays are damaged cannot be checked' in said[0]


def make_old(folder, *items):
  """As checkpoints were saved before 2026-11-25."""
  listed = folder / '_CHECKPOINT_METADATA'
  record = json.loads(listed.read_text())
  for item in items or ('fingerprints', 'dataset'):
    shutil.rmtree(folder / item)
    del record['item_handlers'][item]
  listed.write_text(json.dumps(record))


def test_the_first_checkpoint_has_none_before_it(path):
  (path / '1/config/metadata').unlink()
  with pytest.raises(ValueError, match=r'missing\); there is none before it$'):
    SavedStep(path, 1).read('config')
  with pytest.raises(ValueError, match=r'checkpoint .*/3 is not there'):
    SavedStep(path, 3).read('config')


@pytest.mark.parametrize(
  'number', [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOSPC, errno.ENOMEM]
)
def test_what_cannot_be_opened_is_not_damaged(path, monkeypatch, number):
  # Root may read everything, so the answer is given for it.
  def fail(*args, **kwargs):
    raise OSError(number, 'as it happens')

  like = state_of(2)
  with Checkpoints(path) as checkpoints, monkeypatch.context() as patch:
    patch.setattr(type(path), 'open', fail)
    with pytest.raises(ValueError) as error:
      checkpoints.restore(like, 2)
  line = str(error.value)
  assert 'cannot be read by this process, which does not mean' in line
  assert 'without' not in line and 'away' not in line
