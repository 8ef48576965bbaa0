"""Makes encoded images smaller: JPEGs of a bounded size."""

from typing import NamedTuple
import zlib

from PIL import Image

from mrl_jax.data.images import decode
from mrl_jax.data.images import formats
from mrl_jax.data.images import jpeg_grid
from mrl_jax.data.images import orientation
from mrl_jax.data.images import raw
from mrl_jax.data.prepare import jpegtran


class JpegSettings(NamedTuple):
  """Size of JPEGs; larger images are scaled down, bicubic, antialiased."""

  max_side: int  # Pixels of the longer side.
  quality: int = 90  # 1 to 100.
  keep_small: bool = True  # Leave an RGB JPEG that is small enough as it is.
  # The share of the images that are stored as their pixels, 0 to 1. Their bytes
  # tell which.
  raw_share: float = 0.0
  lossless: bool = False  # What is left as it is becomes a grid: `jpegtran`.


def reencode(
  data: bytes, settings: JpegSettings, *, as_seen: bool = False
) -> bytes:
  """Makes an RGB JPEG of an image, with the pixels that training reads.

  It is one of `jpeg_grid`, of which a crop can be decoded alone, or for a share
  of the images a file of `raw`. With `lossless` the pixels of what would be
  left alone are kept. Returns `data`
  itself if `keep_small` allows, it can be decoded, and (where
  `as_seen`, see `decode.open_rgb`) it stands upright as it is stored. What is
  written has no EXIF data, and needs none. Raises DamagedImageError if the
  image cannot be decoded.
  """
  try:
    header = formats.open_image(data)
    size = header.size
    turned = orientation.read(header) if as_seen else 1
  except Exception as error:
    raise decode.DamagedImageError(str(error)) from error
  scale = min(1, settings.max_side / max(size))
  new_size = tuple(max(1, round(side * scale)) for side in size)
  # Decoded at no less than twice the size, so that bicubic does the scaling.
  image = decode.open_rgb(
    data, at_least=tuple(2 * side for side in new_size), as_seen=as_seen
  )
  is_jpeg = header.mode == 'RGB' and header.format == 'JPEG'
  as_pixels = zlib.crc32(data) < settings.raw_share * 2**32
  if (
    settings.keep_small
    and not as_pixels
    and is_jpeg
    and new_size == size
    and turned == 1
  ):
    return jpegtran.to_grid(data) if settings.lossless else data
  new_size = orientation.turned_size(new_size, turned)
  if image.size != new_size:
    image = image.resize(new_size, Image.Resampling.BICUBIC)
  if as_pixels:
    return raw.encode(image)
  try:
    return jpeg_grid.encode(image, quality=settings.quality)
  except (OSError, ValueError) as error:  # Sides over 65,500.
    raise decode.DamagedImageError(str(error)) from error
