"""Times streamed input by threads, beside FFCV; its resumption and memory.

    python -m benchmarks.input [--images=DIR] [--json=FILE]
                               [--peer=ffcv --ffcv_python=PYTHON]

The images are written as `mrl_jax.data.prepare --max_side=500 --quality=90`
does it, with small JPEGs kept (`kept`) and with `--reencode_all` (`gridded`),
and the latter once more as JPEGs without a grid (`plain`). They are cut to 176
pixels by random resized crops (0.08 to 1), which the host resizes, or leaves to
the step; then only what the host does is timed. FFCV writes them as its
ResNet-50 does, at up to 500 pixels and quality 90, all as JPEGs (`jpg`) and
half of them as pixels (`half`); it re-encodes every image. `tf.data` decodes
the boxes of `plain` and resizes them. Rounds alternate; figures are medians.
`us of CPU` is user and system time an image, which a busy machine changes less
than `images/s`. DIR holds JPEGs, at any depth; left out, two photos that come
with scikit-learn are taken over and over.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks import tf_input
from benchmarks import timing
from mrl_jax.data.batches import boxes
from mrl_jax.data.batches import order
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.stream import Crops
from mrl_jax.data.batches.stream import StreamBatches
from mrl_jax.data.images import decode
from mrl_jax.data.prepare.rewrite import write_dataset
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources.example import Source
from mrl_jax.training import sharding

BATCH_SIZE, SIZE, SKIPPED = 100, 176, 3
RESUME_STEP = 100_000
IMAGENET = 1_281_167
THREADS = (1, 2)
FFCV_MODES = ('jpg', 'half')
RESIZE_ON = ('host', 'step')


def main() -> None:
  args = _parse_args()
  packages = ('jax', 'numpy', 'pillow', 'simplejpeg')
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    paths = _paths(args.images)
    sources = _write(paths, folder)
    title = 'The images, as the stream reads them'
    record[title] = _sizes(sources)
    timing.show(title, record[title])
    title = f'Host memory over {args.batches:,} batches of 64'
    record[title] = [_memory(sources['kept'], args.batches)]
    timing.show(title, record[title])
    title = f'Resumed at step {RESUME_STEP:,}, batches of {BATCH_SIZE}'
    record[title] = [_resume(sources['kept'], folder / 'kept')]
    timing.show(title, record[title])
    peer = None
    if args.peer:
      peer = stack.enter_context(_ffcv(args.ffcv_python, paths, folder))
    title = 'The crops of the step beside those of the host'
    record[title] = [_same_crops(sources['gridded'])]
    timing.show(title, record[title])
    title = 'Random resized crops'
    record[title] = _rates(sources, peer, args.rounds, args.round_batches)
    timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.input', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--images', help='folder of JPEGs')
  add('--json', help='file for the figures')
  add('--peer', choices=('ffcv',))
  add('--ffcv_python', default=sys.executable, help='an interpreter with FFCV')
  add('--rounds', type=int, default=7)
  add('--round_batches', type=int, default=10, help='batches timed in a round')
  add('--batches', type=int, default=2000, help='over which memory may grow')
  return parser.parse_args()


def _paths(folder: str | None) -> list[str]:
  if folder is None:
    import sklearn.datasets

    images = pathlib.Path(sklearn.datasets.__file__).parent / 'images'
    return [str(path) for path in sorted(images.glob('*.jpg'))] * 100
  found = sorted(
    str(path.absolute())
    for path in pathlib.Path(folder).rglob('*')
    if path.suffix.lower() in ('.jpg', '.jpeg')
  )
  if len(found) < BATCH_SIZE:
    sys.exit(f'{folder}: {len(found)} JPEGs, fewer than {BATCH_SIZE}')
  return found


def _write(paths: Sequence[str], folder: pathlib.Path) -> dict[str, Source]:
  images = folder / 'images' / 'train'
  for i, path in enumerate(paths):
    link = images / f'class{i % 2}' / f'{i:06}.jpg'
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path)
  sources = {
    'kept': _prepare(images.parent, folder / 'kept', keep=True),
    'gridded': _prepare(images.parent, folder / 'gridded', keep=False),
  }
  small = folder / 'small'
  for index in range(len(sources['gridded'])):
    example = sources['gridded'].read(index)
    path = small / 'train' / f'class{example.label}' / f'{index:06}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    image = decode.open_rgb(example.data)
    image.save(path, quality=90, optimize=True)
  sources['plain'] = _prepare(small, folder / 'plain', keep=True)
  return sources


def _prepare(images: pathlib.Path, out: pathlib.Path, *, keep: bool) -> Source:
  with contextlib.redirect_stdout(sys.stderr):
    jpeg = JpegSettings(500, keep_small=keep)
    write_dataset(f'folder:{images}', out, jpeg=jpeg)
  return datasets.open_source(str(out), 'train')


def _sizes(sources: dict[str, Source]) -> list[timing.Row]:
  rows = []
  for name, source in sources.items():
    total = sum(len(source.read(i).data) for i in range(len(source)))
    rows.append({'dataset': name, 'images': len(source), 'MB': total / 1e6})
  return rows


def _batches(
  source: Source, threads: int, batch_size: int, resize_on: str = 'host'
) -> StreamBatches:
  largest = boxes.largest_side(source) if resize_on == 'step' else 0
  return StreamBatches(
    source,
    batch_size,
    mesh=sharding.make_mesh(1),
    seed=0,
    crops=Crops({0: SIZE}, scale=(0.08, 1.0), largest=largest),
    damage=DamageLog(0),
    num_threads=threads,
  )


def _memory(source: Source, batches: int) -> timing.Row:
  megabytes = []
  stream = _batches(source, 2, 64).batches(0)
  with contextlib.closing(stream):
    for batch in itertools.islice(stream, 200 + batches):
      jax.block_until_ready(batch)
      megabytes.append(_resident_bytes() / 1e6)
  # Medians, as one batch more or less in flight is 2 % of it.
  before = float(np.median(megabytes[100:200]))
  after = float(np.median(megabytes[-100:]))
  return {
    'MB of the 2nd hundred': before,
    'MB of the last hundred': after,
    'largest MB': max(megabytes),
    'growth %': 100 * (after / before - 1),
  }


def _resident_bytes() -> int:
  pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
  return int(pages) * os.sysconf('SC_PAGE_SIZE')


def _resume(source: Source, folder: pathlib.Path) -> timing.Row:
  """Times a resumption, and the order of an epoch of ImageNet beside it."""
  seconds = []
  for _ in range(5):
    order.epoch_order.cache_clear()
    start = time.perf_counter()
    opened = datasets.open_source(str(folder), 'train')
    first = _take(opened, RESUME_STEP, 1)[0]
    seconds.append(time.perf_counter() - start)
  uninterrupted = _take(source, RESUME_STEP - 10, 11)[-1]
  start = time.perf_counter()
  order.epoch_order(0, 1, IMAGENET)
  return {
    's to the first batch': float(np.median(seconds)),
    'of which': 'opening the dataset, decoding the batch',
    'same bytes': all(
      np.array_equal(first[name], uninterrupted[name]) for name in first
    ),
    f's to order {IMAGENET:,}': time.perf_counter() - start,
  }


def _take(source: Source, step: int, count: int):
  with contextlib.closing(
    _batches(source, 2, BATCH_SIZE).batches(step)
  ) as stream:
    return jax.device_get(list(itertools.islice(stream, count)))


def _same_crops(source: Source) -> timing.Row:
  """Compares the crops that the host resizes with those of the step."""
  host, step = (_batches(source, 2, BATCH_SIZE, where) for where in RESIZE_ON)
  with (
    contextlib.closing(host.batches(0)) as first,
    contextlib.closing(step.batches(0)) as second,
  ):
    expected, batch = next(first), next(second)
  images_NHWC, labels_N = jax.jit(step.take)(batch, 0)
  difference = abs(np.asarray(images_NHWC) - np.asarray(expected['image']))
  crop_bytes = expected['image'].nbytes / BATCH_SIZE
  return {
    'same labels': bool((labels_N == expected['label']).all()),
    'largest difference': float(difference.max()),
    'mean difference': float(difference.mean()),
    'padded side': batch['image'].shape[1],
    'kB of a box, padded': batch['image'].nbytes / BATCH_SIZE / 1e3,
    'kB of a box': float(np.prod(batch['box'][..., 2], 1).mean()) * 3e-3,
    'kB of a crop': crop_bytes / 1e3,
  }


def _rates(
  sources: dict[str, Source],
  peer: subprocess.Popen | None,
  rounds: int,
  batches: int,
) -> list[timing.Row]:
  ways = list(itertools.product(sources, RESIZE_ON, THREADS))
  ways += itertools.product(['tf.data'], ['host'], THREADS)
  if peer:
    ways += itertools.product(FFCV_MODES, ['host'], THREADS)
  found = {way: [] for way in ways}
  for _ in range(rounds):
    for name, where, threads in ways:
      if name in sources:
        stream = _batches(sources[name], threads, BATCH_SIZE, where)
        measured = _measure(stream.batches(0), batches)
      elif name == 'tf.data':
        stream = tf_input.batches(sources['plain'], threads, BATCH_SIZE, SIZE)
        measured = _measure(stream, batches)
      else:
        measured = _ask(peer, f'{name} {threads} {batches}')
      found[name, where, threads].append(
        (measured['rate'], measured['seconds'])
      )
  medians = {way: np.median(values, axis=0) for way, values in found.items()}
  rows = []
  for (name, where, threads), (rate, seconds) in medians.items():
    label = f'FFCV {name}' if name in FFCV_MODES else name
    row = {'input': label, 'resized by': where, 'threads': threads}
    row |= {'images/s': float(rate), 'us of CPU': float(1e6 * seconds)}
    for mode in FFCV_MODES if peer else ():
      rates = [ours for ours, _ in found[name, where, threads]]
      others = [other for other, _ in found[mode, 'host', threads]]
      # The two of a round were slowed by the same load.
      ratio = np.median(np.divide(rates, others))
      row[f'x {mode}'] = float(ratio)
      by_cpu = medians[mode, 'host', threads][1] / seconds
      row[f'x {mode} by CPU'] = float(by_cpu)
    rows.append(row)
  return rows


def _measure(stream: Iterator, batches: int) -> dict[str, float]:
  with contextlib.closing(stream):
    # Until as much is made as is taken.
    for _ in range(SKIPPED):
      next(stream)
    start, processor_start = time.perf_counter(), time.process_time()
    for batch in itertools.islice(stream, batches):
      jax.block_until_ready(batch)
    count = batches * BATCH_SIZE
    return {
      'rate': count / (time.perf_counter() - start),
      'seconds': (time.process_time() - processor_start) / count,
    }


@contextlib.contextmanager
def _ffcv(
  python: str, paths: Sequence[str], folder: pathlib.Path
) -> Iterator[subprocess.Popen]:
  names = folder / 'names'
  names.write_text('\n'.join(paths))
  written = folder / 'ffcv'
  written.mkdir()
  script = pathlib.Path(__file__).with_name('ffcv_input.py')
  with (
    open(folder / 'ffcv.log', 'w+') as log,
    subprocess.Popen(
      [python, str(script), str(names), str(written)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
      text=True,
    ) as process,
  ):
    if process.stdout.readline() != 'ready\n':
      log.seek(0)
      last = log.read().strip().rpartition('\n')[2]
      sys.exit(f'FFCV does not run under {python}: {last}')
    try:
      yield process
    finally:
      process.stdin.close()


def _ask(process: subprocess.Popen, request: str) -> dict[str, float]:
  print(request, file=process.stdin, flush=True)
  return json.loads(process.stdout.readline())


if __name__ == '__main__':
  main()
