"""Times each way of reading random resized crops, in alternating rounds."""

from collections.abc import Mapping
import contextlib
import itertools
import subprocess

import numpy as np

from benchmarks import input_measure
from benchmarks import input_peers
from benchmarks import tf_input
from benchmarks import timing
from mrl_jax.data.batches import boxes
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.stream import Crops
from mrl_jax.data.batches.stream import StreamBatches
from mrl_jax.data.sources.example import Source
from mrl_jax.training import sharding

THREADS = (1, 2)
RESIZE_ON = ('host', 'step')
SCALE = (0.08, 1.0)
TF_DATA = 'tf.data'


def batches(
  source: Source, threads: int, batch_size: int, resize_on: str = 'host'
) -> StreamBatches:
  """Crops as a training reads them; for `step` it would resize them."""
  size, layouts = input_measure.SIZE, None
  if resize_on == 'step':
    layouts = boxes.random_layouts(source, [size], SCALE, batch_size)
  return StreamBatches(
    source,
    batch_size,
    mesh=sharding.make_mesh(1),
    seed=0,
    crops=Crops({0: size}, scale=SCALE, layouts=layouts),
    damage=DamageLog(0),
    num_threads=threads,
  )


def rates(
  sources: Mapping[str, Source],
  peers: Mapping[str, subprocess.Popen],
  rounds: int,
  count: int,
  threads: tuple[int, ...] = THREADS,
) -> list[timing.Row]:
  """Medians over the rounds, of `count` batches each.

  `peers` are those of `input_peers.start`. Ratios are the medians of each
  round's, as both of a round were slowed by the same load.
  """
  theirs = [(mode, peer) for peer in peers for mode in input_peers.MODES[peer]]
  ways = list(itertools.product(sources, RESIZE_ON, threads))
  ways += itertools.product([TF_DATA, *dict(theirs)], ['host'], threads)
  found = {way: [] for way in ways}
  for _ in range(rounds):
    for name, where, workers in ways:
      if name in sources:
        measured = _ours(sources[name], workers, where, count)
      elif name == TF_DATA:
        measured = _tf_data(sources['plain'], workers, count)
      else:
        request = f'{name} {workers} {count}'
        measured = input_peers.ask(peers[dict(theirs)[name]], request)
      found[name, where, workers].append(measured)
  values = {
    way: {key: np.array([x[key] for x in measured]) for key in measured[0]}
    for way, measured in found.items()
  }
  rows = []
  for (name, where, workers), ours in values.items():
    label = f'{dict(theirs)[name]} {name}' if name in dict(theirs) else name
    row = {'input': label, 'resized by': where, 'threads': workers}
    row['images/s'] = float(np.median(ours['rate']))
    row['us of CPU'] = float(1e6 * np.median(ours['seconds']))
    for mode in input_peers.MODES['ffcv'] if 'ffcv' in peers else ():
      other = values[mode, 'host', workers]
      row[f'x {mode}'] = float(np.median(ours['rate'] / other['rate']))
      by_cpu = np.median(other['seconds'] / ours['seconds'])
      row[f'x {mode} by CPU'] = float(by_cpu)
    for key in ('level', 'change'):
      # The step has not resized them yet.
      described = float(np.median(ours[key])) if where == 'host' else '-'
      row[f'mean {key}'] = described
    rows.append(row)
  return rows


def _ours(source, threads, where, count) -> dict[str, float]:
  stream = batches(source, threads, input_measure.BATCH_SIZE, where).batches(0)
  with contextlib.closing(stream):
    if where == 'host':
      pixels = lambda batch: np.asarray(batch['image'])
    else:  # As images of one row; what is said of them is not shown.
      pixels = lambda batch: np.asarray(batch['page'])[:, None, :, None]
    return input_measure.measure(stream, count, pixels)


def _tf_data(source, threads, count) -> dict[str, float]:
  stream = tf_input.batches(
    source, threads, input_measure.BATCH_SIZE, input_measure.SIZE
  )
  with contextlib.closing(stream):
    return input_measure.measure(stream, count)
