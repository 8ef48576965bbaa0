"""Encoded images as JPEGs of a bounded size."""

import io

from PIL import Image

from mrl_jax.data import decode


def reencode(
  data: bytes, *, max_side: int, quality: int, keep: bool = True
) -> bytes:
  """An RGB JPEG whose longer side has at most `max_side` pixels.

  That is `data` itself, if it is one, can be decoded, and `keep`. The pixels
  are those that training reads: a rotation in the EXIF data is not applied.

  Args:
    data: an encoded image.
    max_side: a larger image is scaled down to it, bicubic with antialiasing.
    quality: of a new JPEG, 1 to 100.
    keep: leave a JPEG that is small enough as it is.

  Raises:
    DamagedImageError: it cannot be decoded.
  """
  try:
    with Image.open(io.BytesIO(data)) as header:
      size, mode, stored_as = header.size, header.mode, header.format
  except Exception as error:
    raise decode.DamagedImageError(str(error)) from error
  scale = min(1, max_side / max(size))
  new_size = tuple(max(1, round(side * scale)) for side in size)
  # Decoded at no less than twice the size, so that bicubic does the scaling.
  image = decode.open_rgb(data, at_least=tuple(2 * side for side in new_size))
  # A JPEG with further pictures behind the first, as of phones, is an MPO.
  is_jpeg = mode == 'RGB' and stored_as in ('JPEG', 'MPO')
  if keep and is_jpeg and new_size == size:
    return data
  if image.size != new_size:
    image = image.resize(new_size, Image.Resampling.BICUBIC)
  buffer = io.BytesIO()
  try:
    # With Huffman tables of its own it is smaller, and sooner decoded.
    image.save(buffer, 'JPEG', quality=quality, optimize=True)
  except (OSError, ValueError) as error:  # Sides over 65,535.
    raise decode.DamagedImageError(str(error)) from error
  return buffer.getvalue()
