"""Measures DALI's CPU operators on request, in a Python that has DALI.

Called with LIST and DIR: links the images that the file LIST names into DIR,
then for each line `files WORKERS BATCHES` prints what `input_measure.measure`
finds, as JSON. Random boxes are decoded and resized, with antialiasing; no GPU
is used.
"""

import json
import pathlib
import sys

from nvidia.dali import fn
from nvidia.dali import pipeline_def
from nvidia.dali import types

from benchmarks import input_measure
from benchmarks.input_measure import BATCH_SIZE
from benchmarks.input_measure import SIZE


@pipeline_def(batch_size=BATCH_SIZE, device_id=None)
def crops(folder):
  encoded, _ = fn.readers.file(file_root=folder, random_shuffle=True)
  images = fn.decoders.image_random_crop(
    encoded,
    device='cpu',
    random_area=[0.08, 1.0],
    random_aspect_ratio=[3 / 4, 4 / 3],
    num_attempts=10,
  )
  return fn.resize(
    images, size=[SIZE, SIZE], interp_type=types.INTERP_LINEAR, antialias=True
  )


def batches(pipeline):
  while True:
    (images,) = pipeline.run()
    yield images.as_array()


def main():
  paths = pathlib.Path(sys.argv[1]).read_text().splitlines()
  folder = pathlib.Path(sys.argv[2])
  for i, path in enumerate(paths):
    link = folder / 'class' / f'{i:06}.jpg'
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(path)
  print('ready', flush=True)
  for line in sys.stdin:
    _, workers, count = line.split()
    pipeline = crops(str(folder), num_threads=int(workers), seed=0)
    pipeline.build()
    found = input_measure.measure(batches(pipeline), int(count))
    print(json.dumps(found), flush=True)


if __name__ == '__main__':
  main()
