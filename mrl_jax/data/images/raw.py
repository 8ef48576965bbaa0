"""Images stored as their pixels: binary PPM files, which need no decoding."""

import re

import numpy as np
from PIL import Image

# As `encode` writes it; Pillow reads other headers.
_HEADER = re.compile(rb'P6\n([1-9]\d{0,4}) ([1-9]\d{0,4})\n255\n')


def encode(image: Image.Image) -> bytes:
  """The pixels of an RGB image, behind a header."""
  return b'P6\n%d %d\n255\n' % image.size + image.tobytes()


def read(data: bytes) -> np.ndarray | None:
  """The pixels of a file of `encode`, uint8 [rows, columns, 3]; read-only.

  Returns None for any other file, and for one that is too short or too long.
  """
  found = _HEADER.match(data)
  if not found:
    return None
  width, height = map(int, found.groups())
  if len(data) != found.end() + 3 * width * height:
    return None
  pixels = np.frombuffer(data, np.uint8, offset=found.end())
  return pixels.reshape(height, width, 3)
