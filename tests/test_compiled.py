"""Small programs, compiled ahead of time for chips that are not there.

One process compiles all of them: the compilers would disturb the other tests.
"""

import argparse
import collections
import json
import os
import subprocess
import sys

import jax
import pytest

from benchmarks.compiled import pairs
from benchmarks.compiled import targets

TPU, GPU = 'v5e:2x4', 'h100x8'
WHAT = (
  r'train: MRL, (FSDP|model 2|statistics by device) \(8'
  r'|head: MRL.*tiles|head: MRL, 128.*\(8|head: (contrastive|sigmoid).*\(8'
  r'|search: .*float32 \(8'
)
# The collectives of a step on eight chips: all-reduces, all-gathers, others.
SENT = {
  'train: MRL, FSDP (8)': {TPU: (13, 23, 0), GPU: (12, 2, 1)},
  'train: MRL, statistics by device (8)': {TPU: (3, 0, 0)},
  'train: MRL, model 2 (8)': {TPU: (16, 0, 0), GPU: (16, 0, 0)},
  'head: MRL-E, tiles, 128 x 32 x 256 (1)': {TPU: (0, 0, 0), GPU: (0, 0, 0)},
  'head: MRL, tiles, 128 x 32 x 256 (1)': {TPU: (0, 0, 0), GPU: (0, 0, 0)},
  'head: MRL, 128 x 32 x 256 (8)': {TPU: (1, 0, 0), GPU: (1, 0, 0)},
  'head: contrastive, 64 x 24 (8)': {TPU: (3, 2, 0), GPU: (3, 1, 1)},
  'head: sigmoid, 64 x 24 (8)': {TPU: (1, 0, 48)},
  'search: 8 of 2048 x 16, float32 (8)': {TPU: (0, 2, 0), GPU: (0, 1, 0)},
  'search: 8 of 2048 x 32, float32 (8)': {TPU: (0, 2, 0), GPU: (0, 1, 0)},
  'search: rerank 8 at 32, float32 (8)': {TPU: (1, 0, 0), GPU: (1, 0, 0)},
}


def run(*flags):
  # Simulated devices and fewer optimizations are for the tests' own process.
  ours = ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS')
  environment = {k: v for k, v in os.environ.items() if k not in ours}
  return subprocess.run(
    [sys.executable, '-m', 'benchmarks.compiled', '--tiny', *flags],
    cwd=targets.ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )


def need_compiler(name):
  platform = 'cuda' if name == GPU else 'tpu'
  if not targets.has_compiler(platform):
    pytest.skip(f'no compiler for {name}: {targets.INSTALL[platform]}')


@pytest.fixture(scope='module', params=[TPU, GPU])
def target(request):
  need_compiler(request.param)
  return request.param


@pytest.fixture(scope='module')
def rows(target, tmp_path_factory):
  """The row of each program, by its label."""
  path = tmp_path_factory.mktemp('compiled') / 'record.json'
  what = ('--what=train,head,search', f'--only={WHAT}')
  done = run(f'--target={target}', f'--json={path}', *what)
  assert not done.returncode, done.stderr
  return {
    f'{title.split(", ")[1]}: {row["program"]} ({row["chips"]})': row
    for title, found in json.loads(path.read_text()).items()
    if title.startswith(target)
    for row in found
  }


def test_the_number_of_collectives(rows, target):
  found = {}
  for label, row in rows.items():
    counts = collections.Counter()
    for sent in row['sent']:
      counts[sent['kind']] += sent['count']
    named = [counts.pop(x, 0) for x in ('all-reduce', 'all-gather')]
    found[label] = (*named, counts.total())
  assert found.keys() == SENT.keys()
  known = {label: sent.get(target) for label, sent in SENT.items()}
  assert found == {label: known[label] or found[label] for label in found}


def test_the_memory_of_the_state_is_used_again(rows):
  donated = {label: row['donated'].split(' of ') for label, row in rows.items()}
  assert all(used == given for used, given in donated.values())
  trains = [x for label, x in donated.items() if label.startswith('train')]
  assert trains and all(int(given) > 50 for _, given in trains)


def test_nothing_is_float64_or_on_the_host(rows):
  assert not any(row['float64'] or row['host'] for row in rows.values())


def test_as_many_products_as_the_model_has(rows):
  for label, row in rows.items():
    share = row['model/compiled']
    # Tiles fill prefixes up to 128; what splits classes repeats the encoder.
    least = 0.1 if 'tiles' in label else 0.4
    assert not share or least < share <= 1, (label, share)


def test_an_unknown_target():
  need_compiler(TPU)
  done = run('--target=v9:2x4')
  line = 'error: target v9:2x4: the installed compilers take '
  (line,) = (x for x in done.stderr.splitlines() if x.startswith(line))
  assert done.returncode == 1 and ' v5e:2x4, ' in line and ' v6e:2x4' in line


@pytest.mark.parametrize('name', [TPU, GPU, 'v9:2x4', 'v5e', 'h100'])
def test_no_compiler(monkeypatch, name):
  monkeypatch.setattr(targets, 'has_compiler', lambda platform: False)
  with pytest.raises(ValueError, match=f'target {name}: .*: pip install') as e:
    targets.parse(name)
  # Whoever asks for a kind that there is not is told those there are.
  is_known = name in (TPU, GPU)
  assert is_known != ('known are h100x8, v4:2x2x1, ' in str(e.value))


@pytest.mark.parametrize(
  'name', ['v5e:0x4', 'v5e', 'v5e:2x4x', 'h100x0', 'h100']
)
def test_no_target(monkeypatch, name):
  monkeypatch.setattr(targets, 'has_compiler', lambda platform: True)
  monkeypatch.setattr(targets, '_compiles', lambda target: target.chips > 0)
  with pytest.raises(ValueError, match=r'compilers take h100x8, v4:2x2x1, '):
    targets.parse(name)


def test_more_chips_are_of_a_larger_target():
  target = targets.Target('v5e', '2x4')
  assert target.holding(8) == target
  assert [target.holding(n).name for n in (9, 65)] == ['v5e:8x8', 'v5e:16x16']
  assert targets.Target('h100', '8').holding(20).name == 'h100x24'
  with pytest.raises(ValueError, match='chips 257: must be at most 256'):
    target.holding(257)


def test_the_step_of_pairs_lowers():
  args = argparse.Namespace(tiny=True, dtype='float32', batch_size=2)
  rows = dict(pairs.programs(args, jax.devices()))
  assert [*rows] == ['CLIP-B/16, FSDP', 'CLIP-B/16']
  program = rows['CLIP-B/16, FSDP']()
  assert program.examples == 16 and program.operations > 0
  image = program.arguments[1]['image']
  assert image.shape == (16, 16, 16, 3)
  text = program.step.lower(*program.arguments).as_text()
  # The keys of all devices.
  assert 'all_gather' in text


def test_what_is_no_program():
  done = run('--what=train,tarin')
  assert done.returncode == 2 and 'what tarin: must be of train' in done.stderr
