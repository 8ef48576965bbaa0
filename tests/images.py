"""Small image files for the tests."""

import io
import pathlib

import numpy as np
from PIL import Image


def encoded(
  seed: int, *, size=(24, 20), mode='RGB', image_format='PNG'
) -> bytes:
  """A blocky random image, width times height as in `size`."""
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
  image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
  buffer = io.BytesIO()
  image.convert(mode).save(buffer, image_format)
  return buffer.getvalue()


def write_folder(
  root: pathlib.Path, *, splits=('train', 'val'), classes=('cat', 'dog'), each=3
) -> pathlib.Path:
  """Class folders, below split folders unless `splits` is empty."""
  for s, split in enumerate(splits or ('',)):
    for c, name in enumerate(classes):
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(each):
        seed = 100 * s + 10 * c + i
        (folder / f'{seed}.png').write_bytes(encoded(seed))
  return root
