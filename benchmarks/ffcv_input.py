"""Measures FFCV's loader on request, in a Python that has FFCV.

Called with LIST and DIR: writes the images that the file LIST names to DIR in
both modes, then for each line `MODE WORKERS BATCHES` prints what
`input_measure.measure` finds, as JSON.
"""

import json
import pathlib
import sys

from ffcv.fields import IntField
from ffcv.fields import RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader import OrderOption
from ffcv.writer import DatasetWriter
import numpy as np
from PIL import Image

from benchmarks import input_measure
from benchmarks.input_measure import BATCH_SIZE
from benchmarks.input_measure import SIZE

MODES = {
  'jpg': {'write_mode': 'jpg'},
  'half': {'write_mode': 'proportion', 'compress_probability': 0.5},
}


class Images:
  """A dataset for FFCV's writer: (image, label) by index."""

  def __init__(self, paths):
    self._paths = paths

  def __len__(self):
    return len(self._paths)

  def __getitem__(self, index):
    return Image.open(self._paths[index]).convert('RGB'), index


def write(paths, folder):
  """Writes by the settings of github.com/libffcv/ffcv-imagenet's ResNet-50."""
  for mode, options in MODES.items():
    np.random.seed(0)
    image = RGBImageField(max_resolution=500, jpeg_quality=90, **options)
    writer = DatasetWriter(
      str(folder / mode), {'image': image, 'label': IntField()}, num_workers=1
    )
    writer.from_indexed_dataset(Images(paths))


def loader(folder, mode, workers, count, batches):
  # One long epoch: the end of each stops the threads.
  batches += input_measure.SKIPPED + input_measure.DESCRIBED
  epoch = np.resize(np.arange(count), batches * BATCH_SIZE)
  return Loader(
    str(folder / mode),
    batch_size=BATCH_SIZE,
    num_workers=workers,
    order=OrderOption.RANDOM,
    os_cache=True,
    indices=epoch,
    pipelines={
      'image': [RandomResizedCropRGBImageDecoder((SIZE, SIZE))],
      'label': [IntDecoder()],
    },
  )


def measure(loader, batches):
  images = (images for images, _ in loader)
  return input_measure.measure(images, batches)


def main():
  paths = pathlib.Path(sys.argv[1]).read_text().splitlines()
  folder = pathlib.Path(sys.argv[2])
  replies = sys.stdout
  sys.stdout = sys.stderr  # FFCV prints.
  write(paths, folder)
  print('ready', file=replies, flush=True)
  loaders = {}
  for line in sys.stdin:
    mode, *numbers = line.split()
    workers, batches = map(int, numbers)
    if line not in loaders:
      loaders[line] = loader(folder, mode, workers, len(paths), batches)
      measure(loaders[line], batches)  # Compiles.
    found = measure(loaders[line], batches)
    print(json.dumps(found), file=replies, flush=True)


if __name__ == '__main__':
  main()
