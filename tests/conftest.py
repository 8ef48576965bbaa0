"""Eight simulated devices, strict broadcasting, and the digits once for all."""

import importlib.metadata
import os
import pathlib
import tempfile

# A test process and those that it starts share what they compile. Two test
# processes do not: one could read a file that the other still writes.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _cache = tempfile.TemporaryDirectory(prefix='mrl_jax_xla_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _cache.name
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
elif worker := os.environ.get('PYTEST_XDIST_WORKER'):
  os.environ['JAX_COMPILATION_CACHE_DIR'] += f'/{worker}'
# Compiling takes most of the time. LLVM's optimizations change results by
# rounding alone; JAX_DISABLE_MOST_OPTIMIZATIONS=0 brings them back.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# XLA's loops by LLVM alone, in one module, without notes on aliases: a train
# step compiles in 1.2 s of CPU for 4.4. Later versions have no such choice.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_use_fusion_emitters=false'
    ' --xla_cpu_parallel_codegen_split_count=1'
    ' --xla_llvm_enable_alias_scope_metadata=false'
    ' --xla_llvm_enable_noalias_metadata=false'
    ' --xla_llvm_enable_invariant_load_metadata=false',
  )

import jax
import pytest

from configs import digits_mrl
from mrl_jax.data.sources import datasets

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The tests of `-m quick`: folders and files that take seconds.
QUICK = (
  'analysis/test_analysis.py',
  'data/test_orientation.py',
  'data/test_rgb.py',
  'losses/test_losses.py',
  'losses/test_metrics.py',
  'retrieval/test_metrics.py',
  'retrieval/test_numbers.py',
  'retrieval/test_projections.py',
  'retrieval/test_quantized.py',
  'terminal/test_config_names.py',
  'terminal/test_ending.py',
  'terminal/test_lists.py',
  'test_docs.py',
  'test_nesting.py',
  'test_readme.py',
  'workdir',
)
_TESTS = pathlib.Path(__file__).parent


def pytest_configure(config):
  """Has files tested in their order by several processes.

  By default those of few tests come last, and among them are the longest.
  """
  if hasattr(config.option, 'loadscopereorder'):
    config.option.loadscopereorder = False


def pytest_ignore_collect(collection_path, config):
  """Spares `-m quick` the imports of the other files."""
  is_other = collection_path.name.startswith('test_') and not _is_quick(
    collection_path
  )
  return True if is_other and config.option.markexpr == 'quick' else None


def pytest_collection_modifyitems(items):
  for item in items:
    if _is_quick(item.path) and not item.get_closest_marker('slow'):
      item.add_marker('quick')


def _is_quick(path: pathlib.Path) -> bool:
  path = path.relative_to(_TESTS)
  return path.as_posix() in QUICK or path.parts[0] in QUICK


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A TFDS folder with the digits prepared."""
  path = tmp_path_factory.mktemp('data')
  datasets.open_source('digits', 'train', str(path))
  return str(path)


@pytest.fixture(scope='session')
def finished(tmp_path_factory, data_dir):
  """A workdir through which all stages have run, and its config."""
  from mrl_jax import stages

  config = shrunk(data_dir)
  path = tmp_path_factory.mktemp('run')
  modes = ('train', 'evaluate', 'embed', 'retrieve', 'analyze', 'report')
  stages.run(config, path, modes)
  return config, stages.open_workdir(config, path)


@pytest.fixture
def config(data_dir):
  return shrunk(data_dir)


def shrunk(data_dir):
  """`digits_mrl` in 2 epochs of 4 steps, on one device."""
  config = digits_mrl.get_config()
  config.data_dir = data_dir
  config.mesh.data = 1
  config.train_split = 'train[:264]'
  config.eval_split = 'test[:70]'
  config.eval_batch_size = 32
  config.num_epochs = 2
  config.peak_epoch = 1.0
  config.nesting_dims = (2, 8, 64)
  config.eval_dims = (5,)
  config.log_every_steps = 2
  config.eval_every_epochs = 1
  config.checkpoint_every_epochs = 1
  config.retrieval.k = 20
  config.retrieval.shortlist = 40
  return config
