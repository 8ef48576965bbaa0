"""Converts opened images to RGB of 8 bits, if that is not a guess."""

import numpy as np
from PIL import Image

# Formats whose files have the range of their values, by which Pillow scales.
_SCALED = frozenset(['PPM', 'JPEG2000'])
_WHITE_IS_ZERO = 0
_PHOTOMETRIC = 262  # TIFF's tag.
# Values of 8, 10, 12 or 14 bits that are stored in 16 never reach this.
_LEAST_BRIGHT = 2**14


def to_rgb(image: Image.Image, *, over_white: bool = False) -> Image.Image:
  """Converts grey, palette, CMYK, alpha and 16 bits a channel.

  With `over_white` transparent pixels are laid over white, as people see them;
  else they keep their colour. 16 bits a channel are noticed only if the image
  is not loaded yet. Raises ValueError if the value of white is not known:
  pixels are floats, integers of 32 bits, or of 16 bits and none reaches a
  quarter of the range.
  """
  image = _to_eight_bits(image)
  if not (over_white and image.has_transparency_data):
    return image.convert('RGB')
  if image.mode == 'La':  # Premultiplied; it converts to LA only.
    image = image.convert('LA')
  image = image.convert('RGBA')
  white = Image.new('RGB', image.size, 'white')
  white.paste(image, mask=image.getchannel('A'))
  return white


def _to_eight_bits(image: Image.Image) -> Image.Image:
  known = image.format in _SCALED
  stored_as = str(getattr(image, 'tile', ''))
  if image.mode == 'F':
    raise ValueError('floating-point pixels have no known range')
  if image.mode == 'I' and not (known or image.format == 'PNG'):
    raise ValueError(
      'pixels of 32 bits have no known range: scale them to 8 or 16 bits'
    )
  if image.mode.startswith('I'):
    wide_HW = np.asarray(image).clip(0, 65535).astype(np.uint16, copy=False)
    if 'I;12' in stored_as:  # TIFF's own 12 bits.
      return Image.fromarray((wide_HW >> 4).astype(np.uint8))
    if not known:
      _check_range(int(wide_HW.max()), black_is_sure=True)
    if getattr(image, 'tag_v2', {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
      wide_HW = 65535 - wide_HW
    return Image.fromarray((wide_HW >> 8).astype(np.uint8))
  if ';16' in stored_as and not known:
    # Pillow has read the upper half of each number.
    image.load()
    bands, extrema = image.getbands(), image.getextrema()
    extrema = [extrema] if len(bands) == 1 else extrema
    most = max(
      high
      for band, (_, high) in zip(bands, extrema, strict=True)
      if band not in 'Aa'
    )
    _check_range(most << 8, black_is_sure=False)
  return image


def _check_range(most: int, *, black_is_sure: bool) -> None:
  if most < _LEAST_BRIGHT and (most or not black_is_sure):
    raise ValueError(
      f'16-bit pixels of at most {most:,}, so that they may be 8, 10, 12 or 14 '
      'bits in 16, and white is not known: scale them to 8 bits, or to the '
      'whole of 16'
    )
