"""Two processes of four devices, over loopback, against one device alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax import stages
from mrl_jax.training import distributed
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import metrics_log
from mrl_jax.workdir import predictions
from tests import conftest
from tests.processes import free_address
from tests.processes import ROOT
from tests.processes import run_two
from tests.stages.test_stages import restored

ALL = ('train', 'evaluate', 'embed', 'retrieve', 'analyze', 'report')


def settings(data_dir, num_epochs=2):
  """The shrunk digits, decoded by each process as they are needed."""
  config = conftest.shrunk(data_dir)
  config.update(input='stream', schedule='constant', num_epochs=num_epochs)
  # Rounding tips a ReLU now and then, which changes a gradient by some 1e-3.
  config.learning_rate = 5e-4
  return config


@pytest.fixture(scope='module')
def alone(tmp_path_factory, data_dir):
  path = tmp_path_factory.mktemp('alone')
  stages.run(settings(data_dir), path, ALL)
  return path


@pytest.fixture(scope='module')
def together(tmp_path_factory, data_dir):
  """The workdir of two processes, and what each has printed."""
  path = tmp_path_factory.mktemp('together')
  processes = start(settings(data_dir), path, ALL)
  printed = [process.communicate(timeout=500) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], printed
  return path, printed


def start(config, path, modes, count=2):
  """Starts `count` processes of four devices each, with config as flags."""
  address = free_address()
  flags = [
    f'--config.{name}={config[name]}'
    for name in (
      *('data_dir', 'train_split', 'eval_split', 'eval_batch_size', 'input'),
      *('num_epochs', 'peak_epoch', 'schedule', 'learning_rate'),
      *('nesting_dims', 'eval_dims'),
      *('log_every_steps', 'eval_every_epochs', 'checkpoint_every_epochs'),
    )
  ]
  flags += [f'--config.retrieval.{n}={v}' for n, v in config.retrieval.items()]
  environment = {
    **os.environ,
    'JAX_NUM_CPU_DEVICES': '4',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  return [
    subprocess.Popen(
      [
        *(sys.executable, 'launch.py', '--config=configs/digits_mrl.py'),
        *(f'--workdir={path}', f'--mode={",".join(modes)}', *flags),
        *(f'--coordinator_address={address}', f'--num_processes={count}'),
        f'--process_id={index}',
      ],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(count)
  ]


def stopped_at(step, path, copy):
  """A copy of a workdir, as if training had been killed after `step`."""
  shutil.copytree(path, copy)
  for other in (copy / 'checkpoints').iterdir():
    if int(other.name) > step:
      shutil.rmtree(other)
  (copy / 'stages.json').unlink(missing_ok=True)
  return copy


def values_of(path):
  values = {}
  for record in metrics_log.read_metrics(path / 'metrics.jsonl'):
    values |= record
  return values


def assert_close(config, path, expected_path, step):
  """Every tensor of two models is within 1e-5 of its norm."""
  states = [restored(config, p, step) for p in (path, expected_path)]
  for (name, x), y in zip(
    jax.tree_util.tree_leaves_with_path(states[0].params),
    jax.tree.leaves(states[1].params),
    strict=True,
  ):
    # BatchNorm's biases start at zero: they are judged beside its scales of 1.
    bias = name[0].key == 'encoder' and name[-1].key == 'bias'
    norm = np.sqrt(y.size) if bias else np.linalg.norm(y)
    error = np.linalg.norm(x - y)
    assert error <= 1e-5 * norm, (jax.tree_util.keystr(name), error / norm)


def test_it_trains_as_one_device_does(together, alone, data_dir):
  path, _ = together
  assert_close(settings(data_dir), path, alone, 8)


def test_evaluation_counts_every_example_once(together, alone):
  path, _ = together
  values, expected = values_of(path), values_of(alone)
  assert values.keys() == expected.keys()
  for name, value in expected.items():
    if name.startswith('val/top'):
      assert values[name] == value, name
    elif name.startswith('val/loss'):
      np.testing.assert_allclose(values[name], value, rtol=1e-5, err_msg=name)


def test_embeddings(together, alone, data_dir):
  config = settings(data_dir)
  for split in (config.train_split, config.eval_split):
    x, label, manifest = embeddings.load(together[0] / 'embeddings', split)
    *expected, expected_manifest = embeddings.load(alone / 'embeddings', split)
    np.testing.assert_allclose(x, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(label, expected[1])
    # Parameters trained on another mesh differ in the last bits.
    for name in ('config_hash', 'checkpoint'):
      del manifest[name], expected_manifest[name]
    assert manifest == expected_manifest


def test_predictions(together, alone, data_dir):
  config = settings(data_dir)
  found, expected = (
    predictions.load(path / 'predictions', config.eval_split, (2, 8, 64))
    for path in (together[0], alone)
  )
  # Half precision has 11 bits.
  np.testing.assert_allclose(
    found.logits_GNC, expected.logits_GNC, rtol=2e-3, atol=2e-3
  )
  np.testing.assert_array_equal(found.prediction_GN, expected.prediction_GN)
  np.testing.assert_array_equal(found.label_N, expected.label_N)
  assert found.manifest['count'] == 70


def test_the_first_process_alone_writes_and_prints(together, alone):
  path, ((out, _), (other_out, other_err)) = together
  assert 'train: finished' in out and 'report: finished' in out
  # Gloo's C++ speaks for itself, and its threads cut each other's lines.
  lines = (other_out + other_err).splitlines()
  assert [line for line in lines if 'peer ranks' not in line] == []
  records, expected = (
    metrics_log.read_metrics(p / 'metrics.jsonl') for p in (path, alone)
  )
  assert [r.keys() for r in records] == [r.keys() for r in expected]
  files = [
    {str(f.relative_to(p)) for f in p.rglob('*') if 'checkpoints' not in str(f)}
    for p in (path, alone)
  ]
  # What one process alone adds.
  pictures = {
    f'analysis/{name}'
    for name in (
      'projection.json', 'projection.jpg', 'saliency.json', 'saliency.npz'
    )
  }  # fmt: skip
  pictures.add('report/saliency.png')
  assert pictures & files[1] == pictures and not pictures & files[0]
  # Names that hold the second they were begun in.
  assert all('tfevents' in x for x in (files[0] ^ files[1]) - pictures)
  for names in files:  # Of train, evaluate, retrieve and analyze.
    assert sum('tfevents' in name for name in names) == 4


def test_one_process_goes_on_from_two(together, alone, data_dir, tmp_path):
  config = settings(data_dir)
  path = stopped_at(4, together[0], tmp_path / 'run')
  stages.run(config, path, ('train',))
  assert_close(config, path, alone, 8)


def test_two_go_on_from_one_until_one_is_killed(
  alone, data_dir, tmp_path, monkeypatch
):
  config = settings(data_dir, num_epochs=50)
  path = tmp_path / 'run'
  save = Checkpoints.save

  def save_and_stop(*args):
    save(*args)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, 'save', save_and_stop)
    with pytest.raises(KeyboardInterrupt):
      stages.run(config, path, ('train',))
  processes = start(config, path, ('train',))
  deadline = time.time() + 300
  while not (path / 'checkpoints' / '8').exists():
    assert processes[0].poll() is None and time.time() < deadline
    time.sleep(0.01)
  killed = time.time()
  processes[1].send_signal(signal.SIGKILL)
  processes[1].communicate()
  out, err = processes[0].communicate(timeout=120)
  assert time.time() - killed < 60
  assert processes[0].returncode
  assert 'train: resumes at step 4' in out
  assert 'OSError: ' in err.strip().splitlines()[-1]
  assert 'another process is gone' in err.strip().splitlines()[-1]
  assert_close(config, path, alone, 8)


def test_sigterm_to_one_saves_and_ends_both(data_dir, tmp_path):
  config = settings(data_dir, num_epochs=50)
  path = tmp_path / 'run'
  processes = start(config, path, ('train',))
  deadline = time.time() + 300
  while not (path / 'checkpoints' / '4').exists():
    assert processes[0].poll() is None and time.time() < deadline
    time.sleep(0.01)
  processes[1].send_signal(signal.SIGTERM)
  (out, _), _ = [process.communicate(timeout=120) for process in processes]
  assert [process.returncode for process in processes] == [143, 143]
  step = int(re.search(r'SIGTERM: saves step (\d+)', out)[1])
  assert (path / 'checkpoints' / str(step) / '_CHECKPOINT_METADATA').exists()


@pytest.mark.parametrize(
  'arguments, line',
  [
    ((None, 2, None), 'give all three or none'),
    (('a', 2, 0), "coordinator_address 'a': must be host:port"),
    (('a:1', 2, 2), r'process_id 2: must be in \[0, num_processes\)'),
  ],
)
def test_impossible_processes(arguments, line):
  with (
    pytest.raises(ValueError, match=line),
    distributed.joined(*arguments),
  ):
    pytest.fail('joined')


def test_a_single_machine_is_left_alone():
  with distributed.joined(None, None, None):
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize('tasks, several', [('1', False), ('2', True)])
def test_slurm_is_detected_by_its_step(tasks, several, monkeypatch):
  """A shell within an allocation of many tasks is a step of one."""
  monkeypatch.setenv('SLURM_NTASKS', '2')
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', tasks)
  for name in ('JOB_ID', 'PROCID', 'LOCALID', 'STEP_NODELIST'):
    monkeypatch.setenv(f'SLURM_{name}', '1')
  assert distributed._in_cluster() == several


SEARCH = """
import sys
import jax
import numpy as np
from mrl_jax import retrieval
address, index, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, index)
rows = np.load(f'{folder}/rows.npy')
own = rows[:70] if index == 0 else rows[70:]
mesh = jax.make_mesh((8,), ('rows',), axis_types=(jax.sharding.AxisType.Auto,))
database = retrieval.prepare(own, mesh=mesh)
assert database.shape == rows.shape
ids, scores = retrieval.funnel(
  np.load(f'{folder}/queries.npy'), database, dims=(4, 8), shortlists=(40, 9)
)
np.savez(f'{folder}/{index}.npz', ids=ids, scores=scores)
"""


def test_search_over_rows_of_two_processes(tmp_path):
  rng = np.random.default_rng(0)
  rows_MD, query_QD = (
    rng.normal(size=(n, 8)).astype(np.float32) for n in (103, 5)
  )
  rows_MD[90] = rows_MD[20]  # A tie between the processes.
  np.save(tmp_path / 'rows.npy', rows_MD)
  np.save(tmp_path / 'queries.npy', query_QD)
  run_two(SEARCH, tmp_path)
  expected = retrieval.funnel(
    query_QD, rows_MD, dims=(4, 8), shortlists=(40, 9)
  )
  for index in range(2):
    with np.load(tmp_path / f'{index}.npz') as found:
      np.testing.assert_array_equal(found['ids'], expected.ids_QK)
      np.testing.assert_allclose(found['scores'], expected.scores_QK, rtol=1e-5)
