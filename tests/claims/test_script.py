"""`runs/claims.sh` with a Python that only writes down what it is told."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Programs of one line go to the real one.
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then exec {real} "$@"; fi
echo "$@" >> {told}
case "$*" in *"$FAILS"*) echo "it went wrong"; exit 1;; esac
"""


@pytest.fixture
def run(tmp_path):
  """Runs the script; returns how it ended and the names of its runs."""
  told = tmp_path / 'told'
  told.touch()
  fake = tmp_path / 'bin' / 'python'
  fake.parent.mkdir()
  fake.write_text(PYTHON.format(real=sys.executable, told=told))
  fake.chmod(0o755)

  def run(*arguments, fails='nothing at all'):
    done = subprocess.run(
      [
        'bash',
        ROOT / 'runs/claims.sh',
        *arguments,
        f'--out={tmp_path / "out"}',
      ],
      env={
        **os.environ,
        'PATH': f'{fake.parent}:{os.environ["PATH"]}',
        'FAILS': fails,
      },
      capture_output=True,
      text=True,
      timeout=60,
    )
    lines = told.read_text().splitlines()
    return done, [
      re.search(r'--workdir=\S*/out/(\S+)', x)[1] if 'launch.py' in x else x
      for x in lines
    ]

  return run


@pytest.mark.parametrize('size', ['cpu', 'gpu'])
def test_all_that_the_claims_need_is_run_in_order(run, size, tmp_path):
  done, names = run(
    *(size, '--seeds=0 1', '--emoji=/the/emoji', '--texts=/the/texts')
  )
  assert done.returncode == 0, done.stderr
  assert names[-2].startswith('-m mrl_jax.compare --no-probe ')
  assert names[-1] == f'-m mrl_jax.claims {tmp_path / "out"}'
  at = {name: i for i, name in enumerate(names)}
  for kind in (
    *('images/mrl', 'images/mrl_e', 'images/ff64', 'images/slim'),
    *('images/boost', 'images/tuned-head', 'texts/nested', 'texts/tuned'),
    *('pairs/nested', 'pairs/alone', 'speed/mrl', 'speed/fixed'),
  ):
    assert f'{kind}-0' in at and f'{kind}-1' in at
  # What starts from another run, and what is timed, comes when that is done.
  for seed in (0, 1):
    assert at[f'images/ff64-{seed}'] < at['images/tuned-head-0']
    assert at[f'texts/tuned-{seed}'] < at[f'speed/mrl-{seed}']
  assert sum(name == 'images/mrl-0' for name in names) == 2


def test_flags_reach_the_runs_as_they_are(run, tmp_path):
  run('--seeds=0', '--images=folder:/my images', '--emoji=/an emoji')
  told = (tmp_path / 'told').read_text()
  assert '--config.dataset=folder:/my images ' in told
  sets = "--config.eval_sets='names=retrieval:/an emoji/val?shortlist=20'"
  assert sets in told
  assert '/the/texts' not in told and 'texts/tuned' not in told


@pytest.mark.parametrize('fails', ['images/ff8-0', 'speed/fixed-0'])
def test_a_run_that_fails_ends_it(run, fails):
  done, names = run('--seeds=0', fails=fails)
  assert done.returncode and 'it went wrong' in done.stderr
  assert f'claims.sh: {fails} failed: ' in done.stderr
  assert not any('mrl_jax.claims' in name for name in names)


@pytest.mark.parametrize('argument', ['tpu', '--epochs=3'])
def test_a_mistake_gets_one_line(run, argument):
  done, names = run(argument)
  assert done.returncode == 2 and not names
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'claims.sh: {argument}: must be cpu, gpu, --out=')
