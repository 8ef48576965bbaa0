"""Tells the image formats that are read: all that the installed Pillow decodes.

A plugin registered with Pillow (as by pillow_heif) counts. Formats that Pillow
hands to another program, or only identifies, are left out.
"""

import io
import struct
import warnings

from PIL import Image
from PIL import JpegImagePlugin

# Ghostscript would run for EPS; WMF is drawn by Windows alone; the others are
# identified by Pillow and decoded by nobody.
_LEFT_OUT = frozenset(['EPS', 'WMF', 'MPEG', 'BUFR', 'GRIB', 'HDF5'])
# Pillow warns of damaged metadata, which are no reason to doubt the pixels.
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')
# First bytes of a file by which its format is recognised.
HEAD = 16
_JPEG = b'\xff\xd8\xff'
# Nearly all files begin so, and are recognised without asking each plugin.
_USUAL = (_JPEG, b'\x89PNG', b'GIF8', b'BM', b'II*\0', b'MM\0*')


def extensions() -> frozenset[str]:
  """The extensions of image files, in lower case, with their dots."""
  return frozenset(
    extension
    for extension, name in Image.registered_extensions().items()
    if name in Image.OPEN and name not in _LEFT_OUT
  )


def is_image(head: bytes, extension: str = '') -> bool:
  """Whether the first `HEAD` bytes of a file are those of an image.

  The few formats without a signature, such as TGA, are known by the extension.
  """
  webp = head[:4] == b'RIFF' and head[8:12] == b'WEBP'
  if webp or head.startswith(_USUAL):
    return True
  if not head:
    return False
  named = Image.registered_extensions().get(extension.lower())
  for name, (_, accept) in Image.OPEN.items():
    if name in _LEFT_OUT:
      continue
    # A text in place of True says that Pillow was built without the decoder.
    if accept(head) is True if accept else name == named:
      return True
  return False


def open_image(data: bytes) -> Image.Image:
  """Opens an encoded image and reads only its header.

  `Image.open` does so, too, but warns of large images, although a large JPEG
  can be decoded smaller. Raises ValueError, or what Pillow raises, if the image
  cannot be opened.
  """
  if data.startswith(_JPEG):
    # The first picture of an MPO, as phones write it, is a JPEG by itself.
    return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
  Image.init()
  reason = 'of no format that Pillow reads'
  for name, (factory, accept) in Image.OPEN.items():
    if name in _LEFT_OUT or (accept and accept(data[:HEAD]) is not True):
      continue
    try:
      return factory(io.BytesIO(data), '')
    # A plugin raises these for an image of another format.
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
      if accept:
        reason = f'{name}: {error}'
  raise ValueError(f'the image cannot be opened: {reason}')


def without_metadata(png: bytes) -> bytes:
  """Removes texts and colour profile from a PNG; the orientation is kept.

  Pillow refuses an image for a text or profile of more than a megabyte.
  """
  kept = [png[:8]]
  at = 8
  while at + 12 <= len(png):
    end = at + 12 + int.from_bytes(png[at : at + 4])
    if png[at + 4 : at + 8] in _PIXELS or _tells_orientation(png, at, end):
      kept.append(png[at:end])
    at = end
  return b''.join(kept)


_PIXELS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND', b'eXIf')
_TEXTS = (b'tEXt', b'zTXt', b'iTXt')
_MOST_TEXT = 2**18


def _tells_orientation(png: bytes, at: int, end: int) -> bool:
  return (
    png[at + 4 : at + 8] in _TEXTS
    and end - at < _MOST_TEXT
    and png.startswith((b'Raw profile type exif', b'XML:com.adobe.xmp'), at + 8)
  )
