"""The command line: flags, errors in one line, and a run that is killed."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
SHORT = (
  '--config=configs/digits_mrl.py',
  '--mode=train',
  '--config.train_split=train[:640]',
  '--config.eval_split=test[:32]',
  '--config.num_epochs=4',
  '--config.eval_every_epochs=4',
  '--config.checkpoint_every_epochs=1',
  '--config.nesting_dims=4,64',
  '--config.eval_dims=()',
)


def start(*args, **environment):
  return subprocess.Popen(
    [sys.executable, 'launch.py', *args],
    cwd=ROOT,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def launch(*args):
  process = start(*args)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


@pytest.mark.parametrize(
  'args, line',
  [
    ((), '--config is missing'),
    (('--config=configs/nowhere.py',), 'nowhere.py'),
    (('--config=configs/digits_mrl.py', '--config.batch=3'), "'batch'"),
    (('--config=configs/digits_mrl.py', '--config.batch_size=x'), "'x'"),
    (('--config=configs/digits_mrl.py', '--worker=3'), "'worker'"),
    (('--config=configs/digits_mrl.py', 'train'), "'train'"),
    (('--config=configs/digits_ff.py',), 'digits_ff.py:16'),
    (
      ('--config=configs/digits_mrl.py', '--mode=train,fly'),
      "stage 'fly': must be one of",
    ),
  ],
)
def test_mistakes_get_one_line(args, line, tmp_path):
  workdir = tmp_path / 'run'
  code, out, err = launch(*args, f'--workdir={workdir}')
  assert code == 1
  assert not out
  assert err.startswith('ValueError: ') and line in err
  assert len(err.strip().splitlines()) == 1
  assert not workdir.exists()


def test_flags_are_read_before_jax_is_imported():
  done = subprocess.run(
    [
      *(sys.executable, '-c'),
      "import mrl_jax.launch, sys; sys.exit('jax' in sys.modules)",
    ],
    cwd=ROOT,
  )
  assert done.returncode == 0


def test_killed_and_started_again_it_ends_in_the_same_bits(data_dir, tmp_path):
  args = (*SHORT, f'--config.data_dir={data_dir}')
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  code, _, err = launch(*args, f'--workdir={whole}')
  assert code == 0, err
  # It may be killed while it writes there.
  cache = tmp_path / 'xla'
  shutil.copytree(os.environ['JAX_COMPILATION_CACHE_DIR'], cache)
  process = start(
    *args, f'--workdir={killed}', JAX_COMPILATION_CACHE_DIR=str(cache)
  )
  deadline = time.time() + 60
  while not list(killed.glob('checkpoints/*0')):
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not (killed / 'stages.json').exists()
  code, out, err = launch(*args, f'--workdir={killed}')
  assert code == 0, err
  assert 'train: resumes at step' in out
  first, second = (read_arrays(path) for path in (whole, killed))
  assert len(first) > 20 and first.keys() == second.keys()
  for name, array in first.items():
    np.testing.assert_array_equal(array, second[name], err_msg=name)


def read_arrays(workdir):
  """The last checkpoint, read with Orbax alone, as flat numpy arrays."""
  import jax
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as checkpointer:
    tree = {
      item: checkpointer.restore(workdir / 'checkpoints' / '40' / item)
      for item in ('model', 'optimizer')
    }
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
