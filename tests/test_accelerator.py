"""The benchmark of accelerators, in small on a CPU."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator import digits
from benchmarks.accelerator import hlo_classes
from benchmarks.accelerator import parts as parts_lib
from benchmarks.accelerator import trace
from benchmarks.accelerator.trace_events import Event
from configs import digits_mrl
from mrl_jax.data.batches import resident
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.sources import datasets

ROOT = pathlib.Path(__file__).parent.parent
# Sound values that may be 0: of an empty class of work, or of equal numbers.
_MAY_BE_ZERO = (
  *('share, %', 'ms', 'off by, %', 'loss off by, %', 'top-1@'),
  'temporary MB',
)
# The command has a cache of its own, as it kills its processes.
_ENVIRONMENT = {
  name: value
  for name, value in os.environ.items()
  if name != 'JAX_COMPILATION_CACHE_DIR'
}


def run(*arguments: str, timeout: float = 500) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=_ENVIRONMENT | {'PYTHONPATH': str(ROOT)},
    timeout=timeout,
    check=True,
    capture_output=True,
    text=True,
  )


def read(folder: pathlib.Path) -> list[dict]:
  lines = (folder / 'results.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tiny')
  module = 'benchmarks.accelerator'
  arguments = ('--tiny', '--minutes=8', f'--out={folder}')
  return folder, run('-m', module, *arguments).stdout


def test_every_part_has_sound_results(tiny):
  folder, _ = tiny
  rows = read(folder)
  assert {row['part'] for row in rows} == {x.name for x in parts_lib.PARTS}
  for row in rows:
    assert row['status'] == 'ok', row
    for name, value in row.items():
      assert 'fault' not in name, row
      if isinstance(value, int | float) and not isinstance(value, bool):
        is_least = value >= 0 if name.startswith(_MAY_BE_ZERO) else value > 0
        assert is_least, (name, row)


def test_ratios_are_there_where_torch_is(tiny):
  pytest.importorskip('torch')
  folder, _ = tiny
  rows = read(folder)
  of = lambda part: [row for row in rows if row['part'] == part]
  heads = [row for row in of('heads') if 'tiles' not in row['item']]
  assert len(heads) == 3 and all('peer / ours' in row for row in heads)
  steps = [row for row in of('resnet') if 'MRL, ' in row['item']]
  assert steps and all('peer / ours' in row for row in steps)
  # The same model: as new, both lose about as much.
  for row in steps:
    assert row['peer loss'] == pytest.approx(row['loss'], rel=0.2)
  blocks = [row for row in of('heads') if 'tiles' in row['item']]
  assert all(row['loss off by, %'] < 1 for row in blocks)


def test_results_are_in_tables_and_summary(tiny):
  folder, printed = tiny
  tables = (folder / 'tables.md').read_text()
  assert tables in printed and '| MRL-E, 16 x 16 x 24' in tables
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary['platform'] == 'cpu' and 'jax' in summary['versions']
  assert summary['failed'] == summary['skipped'] == 0 == len(summary['faults'])
  assert summary['ok'] == len(read(folder))
  shares = [row for row in read(folder) if row['part'] == 'trace']
  names = [row['item'].split(', ')[-1] for row in shares]
  assert names == [*hlo_classes.CLASSES, 'idle', 'whole']
  assert shares[0]['ms'] > 0


FAULTS = """
import os, pathlib, sys, time, types
sys.modules['torch'] = None  # Nothing here needs it, and it takes long.
from benchmarks.accelerator import results, runner, sizes
from benchmarks.accelerator.parts import Part

def module(name, run):
  full = f'benchmarks.accelerator.{name}'
  sys.modules[full] = types.ModuleType(full)
  sys.modules[full].run = run

def fail(task):
  task.attempt('first', lambda: 1 / 0)
  task.attempt('second', lambda: {'s': 1.0})
  raise MemoryError('no memory')

module('fails', fail)
module('dies', lambda task: os._exit(3))
module('hangs', lambda task: time.sleep(1000))
module('works', lambda task: task.attempt('all', lambda: {'s': 1.0}))
names = ('fails', 'dies', 'hangs', 'lacks', 'works')
parts = [Part(x, x, 0.01 if x == 'hangs' else 1) for x in names]
record = results.Record(pathlib.Path(sys.argv[1]))
runner.run(parts, sizes.TINY, record, time.monotonic() + 200)
record.finish()
"""


def test_a_part_that_fails_does_not_stop_the_others(tmp_path):
  run('-c', FAULTS, str(tmp_path))
  found = {}
  for row in read(tmp_path):
    found.setdefault(row['part'], []).append((row['status'], row.get('why')))
  assert found['fails'] == [
    ('failed', 'ZeroDivisionError: division by zero'),
    ('ok', None),
    ('failed', 'MemoryError: no memory'),
  ]
  assert found['dies'] == [('failed', 'its process ended with 3')]
  assert found['hangs'] == [('failed', 'cut off: its time was over')]
  assert found['lacks'][0][1].startswith('ModuleNotFoundError: ')
  assert found['works'] == [('ok', None)]
  assert 'division by zero' in (tmp_path / 'errors.txt').read_text()


ABSENT = """
import sys
for name in sys.argv[1:]:
  sys.modules[name] = None
from benchmarks.accelerator import missing, parts
missing.stand_in()
for part in parts.PARTS:
  part.load()
assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules
"""


def test_packages_that_it_does_without():
  run(
    *('-c', ABSENT, 'array_record', 'cykooz_resizer', 'importlib_resources'),
    *('ml_collections', 'msgspec', 'orbax', 'plotly', 'simplejpeg'),
    *('tensorboardX', 'tensorflow_datasets'),
  )


@pytest.mark.parametrize(
  'flag, line',
  [
    ('--minutes=0.5', '--minutes=0.5: must be at least 2'),
    ('--minutes=nan', '--minutes=nan: must be at least 2'),
    ('--parts=heads,head', '--parts=head: must be among card, digits, '),
    ('--pixels=161', '--pixels=161: must be among 160, 224, 192, 176'),
  ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path, flag, line):
  argv = ['accelerator', f'--out={tmp_path / "out"}', flag]
  monkeypatch.setattr(sys, 'argv', argv)
  with pytest.raises(SystemExit) as stopped:
    command.main()
  assert stopped.value.code == 2 and line in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_digits_are_those_of_the_config(data_dir):
  config = digits_mrl.get_config()
  assert {
    name: tuple(value) if isinstance(value, tuple | list) else value
    for name, value in ((name, config[name]) for name in digits.RECIPE)
  } == digits.RECIPE
  for split, (images_NHWC, label_N) in digits.load().items():
    source = datasets.open_source('digits', split, data_dir)
    rows = range(len(source))
    loaded = resident.load(
      source, rows, len(rows), resize=0, image_size=8, damage=DamageLog(0)
    )
    as_set = lambda images, labels: sorted(
      (image.tobytes(), int(label))
      for image, label in zip(images, labels, strict=True)
    )
    assert as_set(images_NHWC, label_N) == as_set(loaded.image, loaded.label_R)


HLO = """HloModule jit_step

FileNames
1 "/a/models/batch_norm.py"
2 "/a/models/resnet.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7}
2 {file_name_id=2 function_name_id=1 line=7}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%fused.1 (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %multiply.1 = f32[8]{0} multiply(%p, %p), metadata={stack_frame_id=1}
}

%fused.2 (q: f32[8]) -> f32[8] {
  %q = f32[8]{0:T(256)} parameter(0)
  ROOT %transpose.1 = f32[8]{0} transpose(%q), dimensions={0}
}

ENTRY %main.1 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %norm.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused.1
  %move.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused.2
  %conv.1 = (f32[8]{0}, u8[4]{0}) custom-call(%x), \
custom_call_target="__cudnn$convForward"
  %gemm.1 = f32[8]{0} custom-call(%x), custom_call_target="__cublas$lt$matmul"
  %sum.1 = f32[8]{0} all-reduce-start(%x), to_apply=%add
  %add.2 = f32[8]{0} add(%x, %x), metadata={stack_frame_id=2}
  ROOT %loop.1 = f32[8]{0} while(%x), body=%b
}
"""


def test_classes_of_instructions():
  classes = hlo_classes.of_program(HLO)
  names = ('norm.1', 'move.1', 'conv.1', 'gemm.1', 'sum.1', 'add.2')
  assert [classes[name] for name in names] == [
    *('norms', 'copies', 'convolutions', 'products', 'collectives', 'other')
  ]
  assert 'loop.1' not in classes
  assert hlo_classes.of_name('ncclDevKernel_AllReduce_Sum') == 'collectives'
  assert hlo_classes.of_name('sm90_xmma_fprop_bf16') == 'convolutions'
  assert hlo_classes.of_name('loop_convert_fusion') == 'other'
  assert hlo_classes.of_name('MemcpyD2D') == 'copies'


def test_shares_of_a_trace():
  event = lambda name, start, end, device='gpu', line='Stream #1', op='': Event(
    device, line, name, 1e6 * start, 1e6 * end, op, ''
  )
  events = [
    # A loop of 4 ms, with 3 ms of a convolution inside it.
    event('loop.1', 0, 4),
    event('kernel', 1, 4, op='conv.1'),
    # Named as a kernel is, in another stream, and half of it at the same time.
    event('norm_1', 3, 5, line='Stream #2'),
    # 3 ms of nothing; and another device, busy for a fifth of the time.
    event('move_1', 8, 10),
    event('sum.1', 0, 2, device='other'),
  ]
  rows = trace.shares(events, HLO, steps=2)
  share = {name: row['share, %'] for name, row in rows.items()}
  expected = {
    'convolutions': 3,
    'products': 0,
    'norms': 2,
    'copies': 2,
    'collectives': 2,
    'other': 1,
    'idle': 3 + 8,
    'whole': 20,
  }
  assert list(share) == list(expected)
  np.testing.assert_allclose(list(share.values()), [
    100 * ms / 20 for ms in expected.values()
  ])  # fmt: skip
  assert rows['whole']['ms'] == pytest.approx(5)
  assert rows['convolutions']['ms'] == pytest.approx(3 / 4)
  assert rows['convolutions']['longest'] == 'conv.1 0.750 ms'
