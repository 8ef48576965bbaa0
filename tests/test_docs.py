"""The tutorial's code runs, and what the pages name is there."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from mrl_jax import stages

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
PAGES += sorted((ROOT / 'docs').rglob('*.md'))


def code_blocks(page: pathlib.Path, *languages: str) -> list[tuple[str, str]]:
  """The language and the text of each block in these languages, in order."""
  found = re.findall(
    r'^```(\w+)\n(.*?)^```', page.read_text(encoding='utf-8'), re.M | re.S
  )
  return [(name, text) for name, text in found if name in languages]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, data_dir, monkeypatch):
  (tmp_path / 'launch.py').symlink_to(ROOT / 'launch.py')
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  script = [f'import sys; sys.path.insert(0, {str(ROOT)!r})']
  for language, text in code_blocks(ROOT / 'docs/tutorial.md', 'sh', 'python'):
    if language == 'python':
      script.append(text)
      continue
    command = text.replace('\\\n', ' ').replace('10 ', '3 ', 1)
    assert 'num_epochs=3 ' in command  # Fewer than for a reader, for speed.
    _run(tmp_path, data_dir, *shlex.split(command)[1:])
  (tmp_path / 'script.py').write_text('\n'.join(script), encoding='utf-8')
  out = _run(tmp_path, data_dir, 'script.py')
  assert out.count('mAP@10') == 2


def _run(folder, data_dir, *args: str) -> str:
  if args[0] == 'launch.py':
    args = (*args, f'--config.data_dir={data_dir}')
  run = subprocess.run(
    [sys.executable, *args],
    cwd=folder,
    capture_output=True,
    text=True,
  )
  assert not run.returncode, run.stderr
  return run.stdout


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
  text = page.read_text(encoding='utf-8')
  from configs import emoji_clip_mrl
  from configs import text_mrl

  # Together they have every field, those of texts and pairs as well.
  configs = text_mrl.get_config(), emoji_clip_mrl.get_config()
  for field in re.findall(r'--config\.([a-z_.]+)', text):
    assert any(_holds(config, field.split('.')) for config in configs), field
  for modes in re.findall(r'--mode=([a-z,]+)', text):
    assert {*modes.split(',')} <= {*stages.STAGES}, modes
  for path in re.findall(r'configs/\w+\.py', text):
    assert (ROOT / path).is_file(), path
  for name in re.findall(r'(?:-m |:::? )(mrl_jax[\w.]*)', text):
    path = ROOT / name.rpartition('.')[0].replace('.', '/')
    assert path.exists() or path.with_suffix('.py').exists(), name
  for _, block in code_blocks(page, 'python'):
    compile(block, str(page), 'exec')


def _holds(config, names) -> bool:
  return names[0] in config and (
    len(names) == 1 or _holds(config[names[0]], names[1:])
  )
