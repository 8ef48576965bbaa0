"""Small programs, compiled ahead of time for chips that are not there.

One process compiles all of them: the compilers would disturb the other tests.
"""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.compiled import targets

TPU, GPU = 'v5e:2x4', 'h100x8'
WHAT = (
  r'train: MRL, (FSDP|model 2) \(8|head: MRL.*tiles|head: MRL, 128.*\(8'
  r'|head: contrastive.*\(8|search: .*float32 \(8'
)
# The collectives of a step on eight chips; tiles are of one.
SENT = {
  TPU: {},
  GPU: {},
}


def run(*flags):
  # The simulated devices are for the tests' own process.
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
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
  found = {
    label: {f'{x["kind"]}: {x["whom"]}': x['count'] for x in row['sent']}
    for label, row in rows.items()
  }
  assert found == SENT[target]


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
    # Tiles compute logits twice, and fill narrow prefixes up.
    least = 0.2 if 'tiles' in label else 0.5
    assert not share or least < share <= 1, (label, share)


def test_an_unknown_target():
  need_compiler(TPU)
  done = run('--target=v9:2x4')
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith(
    'error: target v9:2x4: the installed compilers take '
  )
  assert ' v5e:2x4,' in done.stderr and ' v6e:16x16' in done.stderr


@pytest.mark.parametrize('name', [TPU, GPU, 'v9:2x4', 'v5e', 'h100'])
def test_no_compiler(monkeypatch, name):
  monkeypatch.setattr(targets, 'has_compiler', lambda platform: False)
  with pytest.raises(ValueError, match=f'target {name}: .*: pip install'):
    targets.parse(name)


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


def test_what_is_no_program():
  done = run('--what=train,tarin')
  assert done.returncode == 2 and 'what tarin: must be of train' in done.stderr
