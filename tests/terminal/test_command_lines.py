"""Bad command lines of every command: a status, and a line that says why.

In one process, by the commands' own `main(argv)`: usage that argparse refuses
ends in 2, all else that is wrong in 1 and one line.
"""

import contextlib
import itertools
import json
import socket
import sys

from absl import flags
import numpy as np
import pytest

import launch
from mrl_jax import explain
from mrl_jax.compare import __main__ as compare
from mrl_jax.data.prepare import __main__ as prepare
from mrl_jax.models import torch_import
from mrl_jax.retrieval import __main__ as retrieval
from mrl_jax.retrieval.export import __main__ as export
from mrl_jax.retrieval.plan import __main__ as plan
from mrl_jax.training import distributed

# ml_collections loads config files by it.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')

CONFIGS = {
  'syntax.py': 'def get_config(:\n',
  'none.py': 'x = 1\n',
  'dict.py': 'def get_config():\n  return {}\n',
  'nothing.py': 'def get_config():\n  return None\n',
  'index.py': 'def get_config():\n  return [][3]\n',
  'value.py': 'def get_config():\n  raise ValueError("a\\nb")\n',
  'imports.py': 'import nopackage\n',
  'recursion.py': 'def get_config():\n  return get_config()\n',
  'few.py': (
    'from ml_collections import ConfigDict\n'
    'def get_config():\n  return ConfigDict({"name": "x"})\n'
  ),
  'type.py': (
    'from configs import default\n'
    'def get_config():\n  config = default.get_config()\n'
    '  config.batch_size = "x"\n  return config\n'
  ),
  'zeros.py': '\0' * 20,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Files of many kinds, good and bad."""
  path = tmp_path_factory.mktemp('files')
  rows = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
  np.save(path / 'rows.npy', rows)
  np.save(path / 'ints.npy', rows.astype(int))
  np.save(path / 'flat.npy', rows[0])
  np.save(path / 'wide.npy', np.ones((20, 9), np.float32))
  np.save(path / 'labels.npy', np.arange(20))
  np.save(path / 'objects.npy', np.array([{}, None]), allow_pickle=True)
  np.savez(path / 'rows.npz', rows)
  (path / 'empty.npy').touch()
  (path / 'empty.pt').touch()
  (path / 'text.safetensors').write_text('x')
  (path / 'text.jpg').write_text('x')
  (path / 'run').mkdir()
  (path / 'run' / 'config.json').write_text('[')
  (path / 'other').mkdir()
  (path / 'other' / 'config.json').write_text(json.dumps({'name': 3}))
  for name, text in CONFIGS.items():
    (path / name).write_text(text)
  return path


def launched(argv):
  """`launch.py` with flags as in a new process."""
  with contextlib.suppress(AttributeError):
    for name in [name for name in flags.FLAGS if name.startswith('config.')]:
      delattr(flags.FLAGS, name)
  flags.FLAGS.unparse_flags()
  for name in ('config', 'workdir', 'mode', 'coordinator_address'):
    flags.FLAGS[name].present = 0
    flags.FLAGS[name].value = flags.FLAGS[name].default
  sys.modules.pop('config_config', None)  # As ml_collections names it.
  sys.argv = ['launch.py', *argv]
  launch.main(launch.parse_flags(sys.argv))


def lines_of_launch(folder):
  config = '--config=configs/digits_mrl.py'
  yield from (
    (), ('--config=',), ('--config=configs',), ('--config=configs/none.py',),
    (config, 'train'), (config, '--worker=3'), (config, '--mode=fly'),
    (config, '--mode=,'), (config, '--workdir=/dev/null'),
    (config, '--workdir=/dev/null/x'), (config, '--config.name='),
    (config, '--config.name=a/b'), (config, '--config.x=1'),
    (config, '--config.few_shot.x=1'), (config, '--config.seed.x=1'),
    (config, '--config.save=a', '--config.save=b'),
    (config, '--num_processes=2'), (config, '--num_processes=x'),
    (config, '--config.few_shot=3'), (config, '--config='),
    (config, '--coordinator_address=x', '--num_processes=2', '--process_id=0'),
    (config, '--coordinator_address=x:1', '--num_processes=2',
     '--process_id=2'),
  )  # fmt: skip
  yield from ((f'--config={folder / name}',) for name in CONFIGS)
  yield (f'--config={folder / "few.py"}:argument',)
  numbers = ('x', '', 'nan', '-1', '1e999', '9' * 30)
  for name in (
    'batch_size', 'seed', 'image_size', 'num_epochs', 'learning_rate', 'knn',
    'label_smoothing', 'retrieval.k', 'few_shot.repeats', 'cascade.fit_share',
    'mesh.model', 'peak_epoch', 'momentum', 'eval_resize', 'drop_path',
  ):  # fmt: skip
    # 30 digits are a number, which may do.
    kept = numbers[:-1] if name not in ('seed', 'drop_path') else numbers
    if name in ('peak_epoch', 'eval_resize'):
      kept = ('x', '', 'nan', '-1')
    for value in kept:
      yield config, f'--config.{name}={value}'
  for name in (
    'nesting_dims', 'eval_dims', 'crop_scale', 'mean', 'betas', 'few_shot.ways',
    'modes', 'save', 'eval_sets', 'nesting_weights', 'trainable', 'std',
  ):  # fmt: skip
    for value in (',', 'x,,y', "'x',3,None", '-1,-1', '(', '1,[2]'):
      yield config, f'--config.{name}={value}'
  for name in (
    'encoder', 'head', 'dtype', 'schedule', 'optimizer', 'input', 'profile',
    'decay_mask', 'augmentation', 'loss_kernel', 'checkpoint', 'embeddings',
  ):  # fmt: skip
    for value in ('nonsense', '3', 'é\n'):
      yield config, f'--config.{name}={value}'
  for name in ('flip', 'fsdp', 'blurpool', 'remat', 'slimmable', 'eval_flip'):
    for value in ('maybe', '3', ''):
      yield config, f'--config.{name}={value}'


def lines_of_others(folder):
  files = [
    str(folder / name) for name in (
      'nowhere.npy', 'ints.npy', 'flat.npy', 'objects.npy', 'rows.npz',
      'empty.npy', 'text.jpg', '',
    )
  ]  # fmt: skip
  rows, out = folder / 'rows.npy', f'--out={folder / "out"}'
  search = (f'--queries={rows}', f'--database={rows}', '--k=3', '--shortlist=5')
  for wrong in (*files, str(folder / 'wide.npy')):
    yield retrieval, (*search, f'--queries={wrong}', out)
    yield retrieval, (*search, f'--database={wrong}', out)
    labels = f'--database_labels={folder / "labels.npy"}'
    yield retrieval, (*search, f'--query_labels={wrong}', labels, out)
    yield plan, (
      '--rows=1000', '--budget=1GB', f'--queries={wrong}', f'--database={rows}',
    )  # fmt: skip
  for wrong in files:
    yield export, (f'--embeddings={wrong}', '--to=parquet', out)
  bad_lists = ('', 'x', '8,x', ',', '8,4', '0,8', '9999', '1.5', '8,,8', '-8')
  for value in bad_lists:
    yield retrieval, (*search, f'--dims={value}', out)
    yield (
      export,
      (f'--embeddings={rows}', '--to=parquet', f'--dims={value}', out),
    )
  for value in ('0', '-1', 'x', '', '21', 'nan', '9' * 30, '1e3'):
    yield retrieval, (*search, f'--k={value}', out)
    yield retrieval, (*search, f'--shortlist={value}', out)
  for value in ('', 'x', '-1', '0', 'nan', 'inf', '1e999', '1..5'):
    yield plan, (f'--rows={value}', '--budget=1GB')
    yield plan, ('--rows=1000', f'--budget={value}GBB')
    yield plan, ('--rows=1000', f'--budget={value}')
    yield plan, (
      '--rows=1000', '--budget=1GB', f'--queries={rows}', f'--database={rows}',
      f'--recall={value}2',
    )  # fmt: skip
  for wrong in ('/dev/null', '/dev/null/x', str(rows), ''):
    yield retrieval, (*search, f'--out={wrong}')
    yield export, (f'--embeddings={rows}', '--to=parquet', f'--out={wrong}')
    yield prepare, (f'--out={wrong}', '--dataset=folder:/nowhere')
    yield torch_import, (str(folder / 'empty.pt'), f'--out={wrong}')
  for command, path in itertools.product(
    (compare, explain),
    (*files, folder, folder / 'run', folder / 'other', folder / 'out', rows),
  ):
    image = (str(folder / 'text.jpg'),) if command is explain else ()
    yield command, (str(path), *image)
  yield explain, (str(folder / 'run'), 'x.jpg', '--out=x.gif')
  for name in ('empty.pt', 'text.safetensors', 'text.jpg', 'rows.npy', 'x.pt'):
    yield torch_import, (str(folder / name), out)
    yield torch_import, (str(folder / name), out, '--config=nowhere.py')
    yield torch_import, (str(folder / name), out, '--nesting_dims=x')
  for args in (
    (), ('--dataset=',), ('--dataset=nonsense',), ('--verify',),
    ('--dataset=folder:/nowhere', out), ('--max_side=x',),
    ('--dataset=digits', '--max_side=8'), (f'--out={rows}', '--verify'),
    ('--dataset=digits', out, '--quality=3'),
    ('--dataset=digits', out, '--max_side=0'),
    ('--dataset=digits', out, '--max_side=8', '--quality=101'),
    ('--dataset=digits', out, '--raw_share=0.5'),
    ('--dataset=digits', out, '--max_side=8', '--lossless', '--reencode_all'),
    ('--dataset=digits', out, '--max_side=8', '--raw_share=1.5'),
    ('--dataset=digits', out, '--workers=-1'), (out, '--verify'),
  ):  # fmt: skip
    yield prepare, args
  for command in (compare, explain, prepare, torch_import, retrieval, export):
    yield command, ('--nonsense',)
    yield command, ('--nonsense=3', 'x', '--out')


def ended(call, capsys):
  """Why a command did not end as it should; '' if it did."""
  try:
    call()
  except SystemExit as end:
    said = capsys.readouterr().err
    if end.code == 2:
      return '' if 'error: ' in said.strip().splitlines()[-1] else said
    if not isinstance(end.code, str):
      return f'status {end.code}'
    lines = end.code.strip().splitlines()
    kinds = ('ValueError: ', 'OSError: ', 'ImportError: ')
    right = len(lines) == 1 and lines[0].startswith(kinds)
    return '' if right else f'says {end.code!r}'
  except BaseException as error:
    return f'{type(error).__name__}: {str(error)[:200]!r}'
  capsys.readouterr()
  return 'is taken'


@pytest.fixture(autouse=True)
def hooks(monkeypatch):
  """Undoes what an ending command sets in its process."""
  monkeypatch.setattr(sys, 'argv', sys.argv)
  monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
  monkeypatch.setattr('threading.excepthook', None)


def test_bad_lines_of_launch(folder, capsys, monkeypatch):
  # A line that is taken, against all hope, does not train.
  monkeypatch.setattr('mrl_jax.stages._run_stage', None)
  monkeypatch.setattr('mrl_jax.stages._use_compilation_cache', lambda: None)
  monkeypatch.chdir(launch.__file__.removesuffix('/launch.py'))
  failures, count = [], 0
  for args in lines_of_launch(folder):
    count += 1
    if said := ended(lambda args=args: launched(args), capsys):
      failures.append(f'launch.py {args}: {said}')
  assert not failures, '\n'.join(failures)
  assert count > 200


def test_bad_lines_of_the_other_commands(folder, capsys):
  failures, count = [], 0
  for command, args in lines_of_others(folder):
    count += 1
    if said := ended(lambda c=command, args=args: c.main(args), capsys):
      failures.append(f'{command.__name__} {args}: {said}')
  assert not failures, '\n'.join(failures)
  assert count > 150


def test_slurm_half_set(monkeypatch):
  whole = {
    'SLURM_STEP_NUM_TASKS': '2', 'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2',
    'SLURM_PROCID': '0', 'SLURM_LOCALID': '0', 'SLURM_STEP_NODELIST': 'a,b',
  }  # fmt: skip
  for name in whole:
    monkeypatch.delenv(name, raising=False)
  assert not distributed._in_cluster()
  for name, value in whole.items():
    monkeypatch.setenv(name, value)
  assert distributed._in_cluster()
  for name in whole.keys() - {'SLURM_STEP_NUM_TASKS'}:
    with monkeypatch.context() as patch:
      patch.delenv(name)
      with pytest.raises(ValueError, match=f'{name} not set: start with srun'):
        distributed._in_cluster()
  for name in whole.keys() - {'SLURM_STEP_NODELIST'}:
    with monkeypatch.context() as patch:
      patch.setenv(name, 'x2')
      with pytest.raises(ValueError, match=f"{name}='x2': must be a whole"):
        distributed._in_cluster()
  monkeypatch.setenv('SLURM_PROCID', '2')
  with pytest.raises(ValueError, match='SLURM_PROCID=2: must be below'):
    distributed._in_cluster()


def test_a_port_that_is_taken():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    with (
      pytest.raises(OSError, match=f'port {port} of this host is taken'),
      distributed.joined(f'localhost:{port}', 2, 0),
    ):
      pass
  with (
    pytest.raises(ValueError, match='must be host:port'),
    distributed.joined('localhost:99999', 2, 0),
  ):
    pass
