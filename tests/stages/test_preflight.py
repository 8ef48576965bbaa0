"""What cannot be kept, or will be needed later, is refused before training."""

import ast
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mrl_jax import explain
from mrl_jax import stages
from mrl_jax.data.prepare import __main__ as prepare
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import vectors
from mrl_jax.interop import encoder
from mrl_jax.report import paper_figures
from mrl_jax.retrieval import __main__ as retrieval_command
from mrl_jax.stages import recorded
from mrl_jax.workdir import files
from tests import images

PACKAGE = pathlib.Path(files.__file__).parents[1]


@pytest.mark.parametrize(
  'content',
  [None, 'not json', '[]', '{"0": 1}', '{"zebra": "animal"}'],
)
def test_groups_that_analyze_cannot_use(tmp_path, config, content):
  path = tmp_path / 'groups.json'
  if content is not None:
    path.write_text(content)
  config.superclasses = str(path)
  with pytest.raises(ValueError, match=r'groups\.json'):
    stages.run(config, tmp_path / 'run', ['train', 'evaluate', 'analyze'])
  assert not (tmp_path / 'run').exists()


def test_groups_of_other_classes_than_imagenet(tmp_path, config):
  config.superclasses = 'wordnet_30'
  with pytest.raises(ValueError, match='unknown classes'):
    stages.run(config, tmp_path / 'run', ['train', 'analyze'])
  assert not (tmp_path / 'run').exists()


def test_an_evaluation_set_that_is_not_there(tmp_path, config):
  config.eval_sets = (f'folder:{tmp_path}/none',)
  with pytest.raises(ValueError, match='no such folder'):
    stages.run(config, tmp_path / 'run', ['train', 'evaluate'])
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('url', ['s3://bucket/run', 'gs://bucket/run'])
def test_urls_are_refused_where_a_local_path_is_needed(
  tmp_path, monkeypatch, config, url
):
  monkeypatch.chdir(tmp_path)
  calls = [
    lambda: stages.run(config, url, ['train']),
    lambda: stages.open_recorded(url),
    lambda: datasets.open_source(f'folder:{url}', 'train'),
    lambda: vectors.open_vectors(url, 'train'),
    lambda: encoder.Encoder(url),
    lambda: prepare.verify(url),
  ]
  for call in calls:
    with pytest.raises(ValueError, match='URLs are not read or written'):
      call()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('main', 'arguments'),
  [
    (explain.main, ['run', 'a.png', '--out=gs://bucket/a.png']),
    (explain.main, ['gs://bucket/run', 'a.png']),
    (
      retrieval_command.main,
      ['--queries=x.npy', '--database=x.npy', '--out=gs://bucket/out'],
    ),
  ],
)
def test_urls_are_refused_by_commands(
  tmp_path, monkeypatch, capsys, main, arguments
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as ended:
    main(arguments)
  assert ended.value.code == 2
  assert 'URLs are not read or written' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_a_terminal_that_lacks_a_character():
  program = (
    'from mrl_jax.terminal import ending\n'
    'with ending.in_one_line():\n'
    '  print("16 \u2192 2048")'
  )
  ended = subprocess.run(
    [sys.executable, '-c', program],
    env={**os.environ, 'PYTHONIOENCODING': 'ascii'},
    capture_output=True,
    check=True,
  )
  assert ended.stdout == b'16 \\u2192 2048\n'


def test_a_windows_path_and_a_colon_are_no_url():
  for path in ('C:/runs', 'a:b/c', './s3:/x', 'runs//mine'):
    assert files.local(path, 'workdir') == pathlib.Path(path)


def test_a_class_name_that_is_not_utf8(tmp_path, config):
  for split in ('train', 'val'):
    for name in (b'birch', b'oak\xff'):
      folder = tmp_path / split / name.decode('utf-8', 'surrogateescape')
      folder.mkdir(parents=True)
      (folder / '0.png').write_bytes(images.encoded(0))
  config.dataset = f'folder:{tmp_path}'
  config.train_split, config.eval_split = 'train', 'val'
  with pytest.raises(ValueError, match=r"class b'oak\\xff'.*not UTF-8"):
    recorded.open_split(config, 'train')


def test_a_disk_without_room_for_a_checkpoint(tmp_path):
  with pytest.raises(OSError, match=r'a checkpoint takes 1,0.* MB free'):
    files.check_space(tmp_path, 10**18, 'a checkpoint')
  files.check_space(tmp_path, 1, 'a checkpoint')


@pytest.mark.parametrize('name', ['$100$', '$a', r'\frac{', 'a_b^c', '$\\x$'])
def test_a_class_name_is_no_formula(tmp_path, name):
  pixels = np.zeros((4, 4, 3), np.uint8)
  figure = paper_figures.images([[pixels]], [[name]], ['8'])
  paper_figures.save(figure, tmp_path / 'grid.svg')
  text = (tmp_path / 'grid.svg').read_text(encoding='utf-8')
  assert f'>{name}</text>' in text


def test_text_files_do_not_depend_on_the_locale():
  """Every text file of the package is opened with an encoding."""
  without = []
  for path in sorted(PACKAGE.rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Call) and _opens_text(node):
        without.append(f'{path.relative_to(PACKAGE)}:{node.lineno}')
  assert not without


def _opens_text(call: ast.Call) -> bool:
  """Whether a call reads or writes text in the encoding of the locale."""
  if any(keyword.arg in ('encoding', None) for keyword in call.keywords):
    return False
  function = call.func
  name = getattr(function, 'attr', getattr(function, 'id', ''))
  if name in ('read_text', 'write_text'):
    # `write_text` of the module files is ours, and writes UTF-8.
    owner = getattr(function, 'value', None)
    return not getattr(owner, 'id', 'files').startswith('files')
  if not isinstance(function, ast.Name) or name != 'open':
    return False
  modes = [getattr(mode, 'value', 'r') for mode in call.args[1:2]]
  return not any('b' in mode for mode in modes)
