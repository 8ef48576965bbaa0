"""Resizes a part of an image: bilinear, antialiased."""

import math
import threading

import numpy as np
from PIL import Image

from mrl_jax.data.images.orientation import Box

try:
  import cykooz_resizer
except ImportError:
  # There is no wheel for Linux on ARM. Pillow has the same filter at a third of
  # the speed; the two differ in rounding.
  cykooz_resizer = None

# Each thread has a resizer of its own, with its buffers.
_local = threading.local()


def resize_box(pixels_HWC: np.ndarray, box: Box, size: int) -> np.ndarray:
  """Resizes a box (left, top, right, bottom) to uint8 [size, size, 3].

  As in torchvision, no pixel outside the box contributes.
  """
  left, top = math.floor(box[0]), math.floor(box[1])
  right, bottom = math.ceil(box[2]), math.ceil(box[3])
  part_HWC = pixels_HWC[top:bottom, left:right]
  box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
  if cykooz_resizer is None:
    return resize_with_pillow(part_HWC, box, size)
  return _with_cykooz(part_HWC, box, size)


def resize_with_pillow(
  pixels_HWC: np.ndarray, box: Box, size: int
) -> np.ndarray:
  """Resizes a box to uint8 [size, size, 3]; pixels beside it contribute."""
  height, width, _ = pixels_HWC.shape
  left, top, right, bottom = box
  # Rounding may have put an edge of the box outside.
  box = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
  return np.asarray(
    Image.fromarray(pixels_HWC).resize(
      (size, size), Image.Resampling.BILINEAR, box=box
    )
  )


def _with_cykooz(pixels_HWC: np.ndarray, box: Box, size: int) -> np.ndarray:
  if not hasattr(_local, 'resizer'):
    _local.resizer = cykooz_resizer.Resizer()
  left, top, right, bottom = box
  height, width, _ = pixels_HWC.shape
  rgb = cykooz_resizer.PixelType.U8x3
  source = cykooz_resizer.ImageData(width, height, rgb, pixels_HWC.tobytes())
  target = cykooz_resizer.ImageData(size, size, rgb)
  options = cykooz_resizer.ResizeOptions(
    cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear),
    use_alpha=False,
    crop_box=cykooz_resizer.CropBox(left, top, right - left, bottom - top),
  )
  _local.resizer.resize(source, target, options)
  return np.frombuffer(target.get_buffer(), np.uint8).reshape(size, size, 3)
