"""Encoded images as JPEGs of a bounded size."""

import io

from PIL import Image

from mrl_jax.data.images import decode
from mrl_jax.data.images import formats
from mrl_jax.data.images import orientation as orientation_lib


def reencode(
  data: bytes,
  *,
  max_side: int,
  quality: int,
  keep: bool = True,
  as_seen: bool = False,
) -> bytes:
  """An RGB JPEG whose longer side has at most `max_side` pixels.

  That is `data` itself, if it is one, can be decoded, stands upright as it is
  stored (where `as_seen`), and `keep`. The pixels are those that training
  reads.

  Args:
    data: an encoded image.
    max_side: a larger image is scaled down to it, bicubic with antialiasing.
    quality: of a new JPEG, 1 to 100.
    keep: leave a JPEG that is small enough as it is.
    as_seen: see `decode.open_rgb`; what is written has no EXIF data, and needs
      none.

  Raises:
    DamagedImageError: it cannot be decoded.
  """
  try:
    header = formats.open_image(data)
    orientation = orientation_lib.read(header) if as_seen else 1
  except Exception as error:
    raise decode.DamagedImageError(str(error)) from error
  size = header.size
  scale = min(1, max_side / max(size))
  new_size = tuple(max(1, round(side * scale)) for side in size)
  # Decoded at no less than twice the size, so that bicubic does the scaling.
  image = decode.open_rgb(
    data, at_least=tuple(2 * side for side in new_size), as_seen=as_seen
  )
  is_jpeg = header.mode == 'RGB' and header.format == 'JPEG'
  if keep and is_jpeg and new_size == size and orientation == 1:
    return data
  new_size = orientation_lib.turned_size(new_size, orientation)
  if image.size != new_size:
    image = image.resize(new_size, Image.Resampling.BICUBIC)
  buffer = io.BytesIO()
  try:
    # With Huffman tables of its own it is smaller, and sooner decoded.
    image.save(buffer, 'JPEG', quality=quality, optimize=True)
  except (OSError, ValueError) as error:  # Sides over 65,535.
    raise decode.DamagedImageError(str(error)) from error
  return buffer.getvalue()
