"""Compiles a program, and makes its row of what is known of it then."""

import collections
from collections.abc import Mapping
import time
from typing import Any

from benchmarks import hlo
from benchmarks.compiled import counts
from benchmarks.compiled import work
from benchmarks.compiled.program import Program
from benchmarks.compiled.targets import Target

Row = dict[str, Any]
_KINDS = ('all-reduce', 'all-gather')
PRINTED = (
  'GFLOP', 'MB', 'excess MB', 'main MB', 'model/compiled', 'temporary MB',
  'peak MB', 'roofline ms', 'compute ms', 'float32 arrays', 'donated', 'host',
  'compile s', 'compile CPU s',
)  # fmt: skip


def measure(
  name: str,
  program: Program,
  target: Target,
  chips: int,
  *,
  options: Mapping[str, str],
  save: str = '',
) -> Row:
  """The row `name` of a program on `chips` of a target's kind.

  Units are in the keys; what is not of an example is of a device and step.
  `MB` is XLA's count, in which an array that is fetched in slices counts in
  full for each; `excess MB` is what it has too much by that. The roofline's
  traffic is that of main memory, whose bandwidth is published.
  `options` are XLA's; `save` is a file for the compiled text.
  """
  start, busy = time.perf_counter(), time.process_time()
  compiled = program.step.lower(*program.arguments).compile(
    compiler_options=dict(options) or None
  )
  seconds, busy = time.perf_counter() - start, time.process_time() - busy
  text = compiled.as_text()
  if save:
    with open(save, 'w') as file:
      file.write(text)
  module = hlo.Module(text)
  done = _work(program, module, compiled.cost_analysis())
  own = program.operations / chips
  if work.in_libraries(module):
    own, done = 0.0, done._replace(operations=0.0)
  compute = 1e3 * done.operations / (1e12 * target.chip.teraflops)
  traffic = 1e3 * done.main / (1e9 * target.chip.gigabytes_s)
  here = program.examples / chips
  memory = compiled.memory_analysis()
  wide, wide_mb = 0, 0.0
  if program.activations:
    wide, wide_mb = counts.wide(module, program.activations, program.parameters)
  return {
    'program': name,
    'target': target.name,
    'chips': chips,
    'GFLOP': done.operations / here / 1e9,
    'MB': done.bytes / here / 1e6,
    'excess MB': work.excess_of_slices(module) / here / 1e6,
    'main MB': done.main / here / 1e6,
    'model/compiled': own and own / done.operations,
    'temporary MB': memory.temp_size_in_bytes / 1e6,
    'peak MB': memory.peak_memory_in_bytes / 1e6,
    'roofline ms': max(compute, traffic),
    'compute ms': compute,
    'float32 arrays': wide,
    'float32 MB': wide_mb,
    'float64': counts.of_float64(module),
    'donated': f'{len(module.aliased)} of {program.donated}',
    'host': counts.on_host(module),
    'compile s': seconds,
    'compile CPU s': busy,
    'sent': [x._asdict() for x in counts.sent(module)],
  }


def _work(program: Program, module: hlo.Module, analysis) -> work.Work:
  """XLA's own count, and what it leaves out: rounds of loops, and Pallas.

  For GPUs there is none, and the text's instructions are counted alone.
  """
  rounds, once = work.of_module(module)
  total = rounds
  if analysis:
    extra = rounds.plus(once, -1)
    total = work.Work(
      analysis['flops'] + extra.operations,
      analysis['bytes accessed'] + extra.bytes,
      rounds.main,
    )
  if program.tiles:
    total = total.plus(work.in_tiles(module, program.tiles))
  return total


def tables(rows: list[Row]) -> tuple[list[Row], list[Row]]:
  """What is done and kept, and what is sent, as rows to print."""
  done, messages = [], []
  for row in rows:
    name = f'{row["program"]} ({row["chips"]})'
    done.append({'program (chips)': name} | {x: row[x] for x in PRINTED})
    by_kind = collections.defaultdict(lambda: [0, 0.0])
    whom = collections.defaultdict(int)
    for sent in row['sent']:
      kind = sent['kind'] if sent['kind'] in _KINDS else 'other'
      by_kind[kind][0] += sent['count']
      by_kind[kind][1] += sent['megabytes']
      whom[sent['whom']] += sent['count']
    if row['chips'] > 1:
      line = {'program (chips)': name}
      for kind in (*_KINDS, 'other'):
        line[kind], line[f'{kind} MB'] = by_kind[kind]
      line['by'] = ', '.join(f'{n} {x}' for x, n in sorted(whom.items()))
      messages.append(line)
  return done, messages
