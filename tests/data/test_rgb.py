"""Value ranges, transparency, and sizes that no thread could hold."""

import io
import subprocess
import sys
import zlib

import numpy as np
from PIL import Image
import pytest

from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_box


def saved(image, image_format='PNG', **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, image_format, **options)
  return buffer.getvalue()


def grey(most: int, dtype=np.uint16) -> Image.Image:
  ramp = np.linspace(0, most, 48).round().astype(dtype)
  return Image.fromarray(ramp.reshape(6, 8))


def png_rgb16(most: int) -> bytes:
  """A PNG of 16 bits in three channels, which Pillow reads and cannot write."""
  ramp = np.linspace(0, most, 6 * 8 * 3).round().astype('>u2').reshape(6, 24)
  rows = b''.join(b'\0' + row.tobytes() for row in ramp)
  chunks = [
    (b'IHDR', (8).to_bytes(4) + (6).to_bytes(4) + b'\x10\2\0\0\0'),
    (b'IDAT', zlib.compress(rows)),
    (b'IEND', b''),
  ]
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
    for kind, data in chunks
  )


@pytest.mark.parametrize('most', [65535, 40_000, 2**14])
def test_the_whole_of_sixteen_bits_is_scaled(most):
  for image_format in ('PNG', 'TIFF'):
    pixels = np.asarray(decode.open_rgb(saved(grey(most), image_format)))
    expected = np.asarray(grey(most)) >> 8
    np.testing.assert_array_equal(pixels[..., 2], expected)
  pixels = np.asarray(decode.open_rgb(png_rgb16(most)))
  assert pixels.max() == most >> 8


@pytest.mark.parametrize('bits', [8, 10, 12, 14])
@pytest.mark.parametrize(
  'encode',
  [
    lambda most: saved(grey(most)),
    lambda most: saved(grey(most), 'TIFF'),
    lambda most: saved(grey(most), 'TIFF', compression='tiff_lzw'),
    png_rgb16,
  ],
)
def test_fewer_bits_in_sixteen_are_refused(encode, bits):
  with pytest.raises(decode.DamagedImageError, match='scale them to 8 bits'):
    decode.open_rgb(encode(2**bits - 1))


def test_black_is_black_in_any_range():
  assert not np.asarray(decode.open_rgb(saved(grey(0)))).any()


def test_a_range_that_the_file_tells_is_used():
  ramp = np.linspace(0, 4095, 48).round().astype('>u2')
  pgm = b'P5\n8 6\n4095\n' + ramp.tobytes()
  pixels = np.asarray(decode.open_rgb(pgm))[..., 0].ravel()
  np.testing.assert_allclose(pixels, ramp / 4095 * 255, atol=1)


@pytest.mark.parametrize('dtype', [np.int32, np.float32])
def test_ranges_that_nothing_tells_are_refused(dtype):
  with pytest.raises(decode.DamagedImageError, match='no known range'):
    decode.open_rgb(saved(grey(65535, dtype), 'TIFF'))


def test_sixteen_bits_of_a_negative_are_turned_positive():
  """TIFF's WhiteIsZero, which Pillow inverts at 8 bits alone."""
  data = saved(grey(65535), 'TIFF', tiffinfo={262: 0})
  pixels = np.asarray(decode.open_rgb(data))[..., 0]
  np.testing.assert_array_equal(pixels, (65535 - np.asarray(grey(65535))) >> 8)


@pytest.mark.parametrize('kind', ['RGBA', 'LA', 'P', 'RGB key', 'GIF', 'La'])
def test_transparent_pixels_lie_over_white_as_they_are_seen(kind):
  """Left half: a hidden black; right half: an opaque grey of 100."""
  pixels = np.zeros((4, 8, 4), np.uint8)
  pixels[:, 4:] = (100, 100, 100, 255)
  image = Image.fromarray(pixels)
  data = {
    'RGBA': lambda: saved(image),
    'LA': lambda: saved(image.convert('LA')),
    'P': lambda: saved(image.convert('L').convert('P'), transparency=0),
    'RGB key': lambda: saved(image.convert('RGB'), transparency=(0, 0, 0)),
    'GIF': lambda: saved(image.convert('L'), 'GIF', transparency=0),
    'La': lambda: saved(image.convert('LA'), 'TIFF', tiffinfo={338: 1}),
  }[kind]()
  seen = np.asarray(decode.open_rgb(data, as_seen=True))
  assert (seen[:, :4] == 255).all() and (seen[:, 4:] == 100).all()
  stored = np.asarray(decode.open_rgb(data))
  assert (stored[:, :4] == 0).all() and (stored[:, 4:] == 100).all()


def test_half_transparent_pixels_are_mixed():
  image = Image.new('RGBA', (2, 2), (0, 100, 200, 51))
  found = np.asarray(decode.open_rgb(saved(image), as_seen=True))
  np.testing.assert_allclose(found[0, 0], [204, 224, 244], atol=1)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'CMYK', 'YCbCr', 'RGB'])
def test_every_mode_shows_its_colour(mode):
  colour = (255, 255, 255) if mode == '1' else (200, 200, 200)
  image_format = 'TIFF' if mode in ('CMYK', 'YCbCr') else 'PNG'
  image = Image.new('RGB', (16, 16), colour)
  image = image.quantize(4) if mode == 'P' else image.convert(mode)
  for data in (
    saved(image, image_format),
    *([saved(image, 'JPEG')] if mode in ('CMYK', 'L', 'RGB') else []),
  ):
    found = np.asarray(decode.open_rgb(data, as_seen=True)).astype(int)
    assert abs(found - colour).max() <= 2


@pytest.mark.parametrize('image_format', ['GIF', 'TIFF', 'WEBP', 'PNG'])
def test_of_several_pictures_the_first_is_taken(image_format):
  first, second = (Image.new('RGB', (8, 8), x) for x in ('red', 'blue'))
  options = {} if image_format == 'TIFF' else {'duration': 100}
  if image_format == 'WEBP':
    options['lossless'] = True
  data = saved(
    first, image_format, save_all=True, append_images=[second], **options
  )
  found = np.asarray(decode.open_rgb(data, as_seen=True))
  assert (found == (255, 0, 0)).all()


def test_sizes_are_refused_before_any_pixel_is_decoded():
  """Headers alone: no pixels follow them."""
  png = saved(Image.new('L', (4, 4)))
  side = (13_000).to_bytes(4)
  header = png[12:16] + side + side + png[24:29]
  png = png[:12] + header + zlib.crc32(header).to_bytes(4) + png[33:]
  with pytest.raises(
    decode.DamagedImageError, match='13,000x13,000 pixels are'
  ):
    decode.open_rgb(png)
  jpeg = saved(Image.new('RGB', (16, 16)), 'JPEG')
  at = jpeg_box.read_frame(jpeg).offset
  side = (60_000).to_bytes(2)
  jpeg = jpeg[:at] + side + side + jpeg[at + 4 :]
  assert jpeg_box.read_frame(jpeg) is None
  with pytest.raises(decode.DamagedImageError, match='60,000x60,000 pixels'):
    decode.view(jpeg, resize=256, size=224)


_HUGE = """
import io, resource, sys
import numpy as np
from PIL import Image
from mrl_jax.data.images import decode
Image.MAX_IMAGE_PIXELS = None
with open(sys.argv[1], 'rb') as file: data = file.read()
def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = most()
view = decode.view(data, resize=256, size=224, as_seen=True)
rng = np.random.default_rng(0)
crops = [
  decode.random_resized_crop(data, rng, size=224, scale=scale, as_seen=True)
  for scale in ((1e-4, 1e-3), (0.08, 1), (1, 1))
]
print((most() - before) // 1024, view.mean(), *(x.mean() for x in crops))
"""


@pytest.mark.parametrize('mode, side', [('RGB', 9_000), ('CMYK', 5_100)])
def test_a_huge_jpeg_takes_little_memory(tmp_path, mode, side):
  """Decoded whole, they would take 12 bytes a pixel: 1 GB and 300 MB."""
  path = tmp_path / 'huge.jpg'
  image = Image.new('L', (side, side), 90).convert(mode)
  image.save(path, 'JPEG', quality=50)
  del image
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', _HUGE, str(path)],
    capture_output=True,
    text=True,
  )
  assert not done.stderr
  megabytes, *means = map(float, done.stdout.split())
  print(megabytes)
  assert megabytes < 150
  np.testing.assert_allclose(means, 90, atol=2)


@pytest.mark.parametrize(
  'image_format', ['JPEG', 'PNG', 'GIF', 'BMP', 'PPM', 'PCX', 'TGA', 'WEBP']
)
def test_broken_bytes_are_told_as_a_damaged_image(image_format):
  rng = np.random.default_rng(0)
  ramp = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)
  whole = saved(Image.fromarray(ramp).convert('RGB'), image_format)
  for _ in range(60):
    data = bytearray(whole)
    for at in rng.integers(min(len(data), 300), size=3):
      data[at] = rng.integers(256)
    data = bytes(data[: rng.integers(1, len(data))])
    try:
      decode.view(data, resize=20, size=16, as_seen=True)
      decode.random_resized_crop(data, rng, size=16, scale=(0.1, 1))
    except decode.DamagedImageError:
      continue
