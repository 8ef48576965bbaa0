"""The README's tree has every file, and no other."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
_NAME = r'[\w.-]+\.(?:py|html|js|css|md|jinja|txt|yml)(?!\w)|[\w.-]+/'
# Files that say nothing to a reader of the tree.
_SILENT = {'__init__.py', '__main__.py', 'py.typed', 'README.md'}


def listed() -> set[str]:
  """The paths of the package's files in the tree, with folders' as prefixes."""
  tree = README.partition('\nmrl_jax/\n')[2].partition('\nbenchmarks/')[0]
  found, folders = set(), []
  for line in tree.splitlines():
    depth = (len(line) - len(line.lstrip())) // 2
    names = re.findall(_NAME, line)
    assert names, f'{line!r} names no file'
    folders[depth - 1 :] = [names[0]] if names[0].endswith('/') else []
    folder = 'mrl_jax/' + ''.join(folders)
    found |= {folder + name for name in names if not name.endswith('/')}
    found |= {folder + name for name in names[1:] if name.endswith('/')}
  return found


def test_the_tree_is_that_of_the_repository():
  run = subprocess.run(
    ['git', 'ls-files', 'mrl_jax'],
    cwd=ROOT,
    capture_output=True,
    check=True,
    text=True,
  )
  files = {
    'mrl_jax/data/sources/tables/' if '/tables/' in path else path
    for path in run.stdout.split()
    if pathlib.Path(path).name not in _SILENT
  }
  found = {path for path in listed() if pathlib.Path(path).name not in _SILENT}
  # Missing in the tree, and listed there without being in the repository.
  assert (files - found, found - files) == (set(), set())


def test_it_is_short_and_its_links_exist():
  assert len(README.splitlines()) <= 250
  links = re.findall(r'\]\(((?!http)[^)#]+)\)|src="([^"]+)"', README)
  for target in (link or source for link, source in links):
    assert (ROOT / target).exists(), target
