"""Imports go down the layers of the package, and never in a circle."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# From the lowest layer to the highest; a layer may import those before it, and
# folders of one layer may import each other.
LAYERS = (
  ('workdir', 'terminal', 'nesting', 'checks', 'values', 'cores', 'forks'),
  ('losses', 'retrieval'),
  ('models', 'training', 'analysis', 'report'),
  ('data',),
  ('interop',),
  ('stages',),
  ('compare', 'claims', 'explain', 'launch'),
)
# The command keeps its name, and makes a workdir, which is the work of a stage.
EXCEPTIONS = {
  ('mrl_jax.models.torch_import', 'mrl_jax.stages.config'),
  ('mrl_jax.models.torch_import', 'mrl_jax.stages.import_torch'),
}


@functools.cache
def modules() -> dict[str, pathlib.Path]:
  found = {}
  for path in sorted((ROOT / 'mrl_jax').rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    found['.'.join(parts).removesuffix('.__init__')] = path
  return found


@functools.cache
def imports() -> dict[str, set[str]]:
  """The modules of the package that each of its modules imports."""
  found = {}
  for name, path in modules().items():
    found[name] = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
          full = f'{node.module}.{alias.name}'
          found[name].add(full if full in modules() else node.module)
      elif isinstance(node, ast.Import):
        found[name] |= {alias.name for alias in node.names}
    found[name] = {other for other in found[name] if other in modules()}
  return found


def layer(module: str) -> int:
  """The number of a module's layer, from below."""
  folder = module.split('.')[1]
  return next(i for i, names in enumerate(LAYERS) if folder in names)


def test_every_entry_of_the_package_has_a_layer():
  entries = {name.split('.')[1] for name in modules() if '.' in name}
  assert entries == {name for names in LAYERS for name in names}


def test_no_import_goes_up():
  up = {
    (name, other)
    for name, others in imports().items()
    for other in others
    if '.' in name and '.' in other and layer(other) > layer(name)
  }
  assert up == EXCEPTIONS


def test_no_imports_form_a_circle():
  left = {name: set(others) for name, others in imports().items()}
  for name, other in EXCEPTIONS:
    left[name].discard(other)
  # Modules whose imports are all gone are taken away, until none is left.
  while free := {name for name, others in left.items() if not others}:
    left = {
      name: others - free for name, others in left.items() if name not in free
    }
  assert not left


def test_no_module_imports_a_command():
  commands = {
    (name, other)
    for name, others in imports().items()
    for other in others
    if other.endswith('.__main__')
  }
  assert not commands


@pytest.mark.parametrize(
  'library', ['tensorflow', 'torch', 'faiss', 'transformers']
)
def test_heavy_libraries_are_imported_late(library):
  """They are optional, or slow to import: no module imports them at its top."""
  for path in modules().values():
    for node in ast.parse(path.read_text()).body:
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or '']
      assert library not in {name.split('.')[0] for name in names}, path


def test_only_stages_read_a_config():
  """Below the stages, functions take arguments in place of a ConfigDict."""
  for name, path in modules().items():
    if '.' in name and layer(name) < layer('mrl_jax.stages'):
      assert ': ConfigDict' not in path.read_text(), name
