"""Times streamed input by threads, beside peers; its resumption and memory.

    python -m benchmarks.input [--images=DIR] [--json=FILE]
                               [--ffcv_python=PYTHON] [--dali_python=PYTHON]

The images are written as `mrl_jax.data.prepare --max_side=500 --quality=90`
does it, with small JPEGs kept (`kept`) and with `--reencode_all` (`gridded`),
and the latter once more as JPEGs without a grid (`plain`). They are cut to 176
pixels by random resized crops (0.08 to 1), which the host resizes, or leaves to
the step; then only what the host does is timed. FFCV writes them as its
ResNet-50 does, at up to 500 pixels and quality 90, all as JPEGs (`jpg`) and
half of them as pixels (`half`); it re-encodes every image. `tf.data` and DALI,
by its CPU operators, decode the boxes of `plain` and resize them. FFCV and DALI
run if they are installed, or under a PYTHON that has them. Rounds alternate;
figures are medians. `us of CPU` is user and system time an image, which a busy
machine changes less than `images/s`. Crops of gridded JPEGs are compared with
those of plain ones; those of peers, whose boxes are their own, by their mean
level and the mean difference of neighbours. DIR holds JPEGs, at any depth; left
out, two photos that come with scikit-learn are taken over and over.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import tempfile
import time

import jax
import numpy as np

from benchmarks import input_images
from benchmarks import input_measure
from benchmarks import input_peers
from benchmarks import input_rates
from benchmarks import timing
from mrl_jax.data.batches import order
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources.example import Source

RESUME_STEP = 100_000
IMAGENET = 1_281_167


def main() -> None:
  args = _parse_args()
  packages = ('jax', 'numpy', 'pillow', 'simplejpeg')
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  batch_size, size = input_measure.BATCH_SIZE, input_measure.SIZE
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    paths = input_images.find(args.images, batch_size)
    sources = input_images.write(paths, folder)
    title = 'The images, as the stream reads them'
    record[title] = input_images.sizes(sources)
    timing.show(title, record[title])
    title = f'Host memory over {args.batches:,} batches of 64'
    record[title] = [_memory(sources['kept'], args.batches)]
    timing.show(title, record[title])
    title = f'Resumed at step {RESUME_STEP:,}, batches of {batch_size}'
    record[title] = [_resume(sources['kept'], folder / 'kept')]
    timing.show(title, record[title])
    pythons = {'ffcv': args.ffcv_python, 'dali': args.dali_python}
    peers = {}
    for peer, python in input_peers.find(pythons).items():
      small = sorted(map(str, (folder / 'small').rglob('*.jpg')))
      peers[peer] = stack.enter_context(
        input_peers.start(
          peer, python, small if peer == 'dali' else paths, folder
        )
      )
    title = 'The crops of gridded JPEGs beside those of plain ones'
    record[title] = [
      input_images.compare(
        sources['kept'], batch_size, size=size, scale=input_rates.SCALE
      )
    ]
    timing.show(title, record[title])
    title = 'The crops of the step beside those of the host'
    record[title] = [_same_crops(sources['gridded'])]
    timing.show(title, record[title])
    title = 'Random resized crops'
    record[title] = input_rates.rates(
      sources, peers, args.rounds, args.round_batches
    )
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
  for peer in input_peers.MODULES:
    add(f'--{peer}_python', help=f'an interpreter that has {peer.upper()}')
  add('--rounds', type=int, default=7)
  add('--round_batches', type=int, default=10, help='batches timed in a round')
  add('--batches', type=int, default=2000, help='over which memory may grow')
  return parser.parse_args()


def _memory(source: Source, batches: int) -> timing.Row:
  megabytes = []
  stream = input_rates.batches(source, 2, 64).batches(0)
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
    input_rates.batches(source, 2, input_measure.BATCH_SIZE).batches(step)
  ) as stream:
    return jax.device_get(list(itertools.islice(stream, count)))


def _same_crops(source: Source) -> timing.Row:
  """Compares the crops that the host resizes with those of the step."""
  count = input_measure.BATCH_SIZE
  host, step = (
    input_rates.batches(source, 2, count, where)
    for where in input_rates.RESIZE_ON
  )
  with (
    contextlib.closing(host.batches(0)) as first,
    contextlib.closing(step.batches(0)) as second,
  ):
    expected, batch = next(first), next(second)
  images_NHWC, labels_N = jax.jit(step.take)(batch, 0)
  difference = abs(np.asarray(images_NHWC) - np.asarray(expected['image']))
  crop_bytes = expected['image'].nbytes / count
  return {
    'same labels': bool((labels_N == expected['label']).all()),
    'largest difference': float(difference.max()),
    'mean difference': float(difference.mean()),
    'kB of a page, a box': batch['page'].nbytes / count / 1e3,
    'kB of a box': float(np.prod(batch['box'][..., 2], 1).mean()) * 3e-3,
    'kB of a crop': crop_bytes / 1e3,
  }


if __name__ == '__main__':
  main()
