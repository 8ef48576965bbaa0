"""Config files by their bare names, as people without a clone give them."""

import pathlib
import subprocess
import sys

from mrl_jax.terminal import config_names

ROOT = pathlib.Path(__file__).parents[2]


def test_a_bare_name_is_a_config_of_the_package():
  assert config_names.path('digits_ff:16') == f'{ROOT}/configs/digits_ff.py:16'
  for other in ('configs/digits_mrl.py', 'digits_mrl.py', 'nowhere', '', ':16'):
    assert config_names.path(other) == other


def test_names_are_replaced_after_the_flag_alone():
  path = str(ROOT / 'configs' / 'digits_mrl.py')
  argv = ['launch', '--config=digits_mrl', '--workdir=digits_mrl']
  assert config_names.replace_names(argv) == [
    'launch', f'--config={path}', '--workdir=digits_mrl',
  ]  # fmt: skip
  argv = ['launch', '--config', 'digits_mrl', '--config.name=digits_mrl']
  assert config_names.replace_names(argv) == [
    'launch', '--config', path, '--config.name=digits_mrl',
  ]  # fmt: skip


def test_configs_import_each_other_anywhere(tmp_path):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'default.py').write_text('raise ValueError')
  (tmp_path / 'configs' / 'mine.py').write_text(
    'from configs import digits_mrl\nget_config = digits_mrl.get_config\n'
  )
  code = (
    f'import sys; sys.path.insert(1, {str(ROOT)!r})\n'
    'from mrl_jax.terminal import config_names\n'
    'config_names.make_importable()\n'
    'from configs import mine\n'
    'print(mine.get_config().name)'
  )
  run = subprocess.run(
    [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True
  )
  assert run.stdout == 'digits_mrl\n', run.stderr
