"""The serving page's script, in threads and processes."""

import pathlib
import re
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]


def test_threads_and_processes_find_the_same(tmp_path):
  page = (ROOT / 'docs/tasks/serve_search.md').read_text(encoding='utf-8')
  script = re.search(r'```python\n(# serve.py\n.*?)```', page, re.S)[1]
  script = script.replace('1024', '16').replace('64', '4')
  script = script.replace('ProcessPoolExecutor(2', 'ProcessPoolExecutor(1')
  path = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
  (tmp_path / 'serve.py').write_text(path + script, encoding='utf-8')
  rng = np.random.default_rng(0)
  for name, count in (('X', 6), ('Y', 300)):
    np.save(tmp_path / f'{name}.npy', rng.normal(size=(count, 16)))
  done = subprocess.run(
    [sys.executable, 'serve.py'], cwd=tmp_path, capture_output=True, text=True
  )
  assert done.stdout == 'True\n', done.stderr
