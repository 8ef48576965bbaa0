import io

import numpy as np
from PIL import Image
import pytest

from mrl_jax.data.images import decode
from mrl_jax.data.images import formats
from mrl_jax.data.images.random_box import random_box
from tests import images


@pytest.mark.parametrize(
  'mode, image_format',
  [
    ('RGB', 'PNG'),
    ('RGBA', 'PNG'),
    ('P', 'PNG'),
    ('L', 'JPEG'),
    ('CMYK', 'JPEG'),
    ('RGB', 'WEBP'),
    ('RGB', 'GIF'),
    ('RGB', 'BMP'),
    ('RGB', 'TIFF'),
  ],
)
def test_all_kinds_become_rgb(mode, image_format):
  data = images.encoded(0, mode=mode, image_format=image_format)
  assert formats.is_image(data[: formats.HEAD])
  pixels = decode.view(data, resize=16, size=12)
  assert (pixels.shape, pixels.dtype) == ((12, 12, 3), np.uint8)


@pytest.mark.parametrize('image_format', ['PNG', 'JPEG'])
@pytest.mark.parametrize('keep', [0.05, 0.5, 0.9])
def test_cut_short(image_format, keep):
  data = images.encoded(0, size=(200, 200), image_format=image_format)
  with pytest.raises(decode.DamagedImageError):
    decode.open_rgb(data[: int(keep * len(data))])


def test_sixteen_bits_are_scaled_to_eight():
  wide = np.array([[0, 255, 256], [1000, 32768, 65535]], np.uint16)
  buffer = io.BytesIO()
  Image.fromarray(wide).save(buffer, 'PNG')
  pixels = np.asarray(decode.open_rgb(buffer.getvalue()))
  np.testing.assert_array_equal(pixels[..., 0], wide >> 8)


def test_floating_point_pixels_are_refused():
  buffer = io.BytesIO()
  Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, 'TIFF')
  with pytest.raises(decode.DamagedImageError, match='floating-point'):
    decode.open_rgb(buffer.getvalue())


def test_resize_takes_the_shorter_side_and_the_centre():
  gradient = np.arange(40, dtype=np.uint8)[None, :, None].repeat(20, 0)
  buffer = io.BytesIO()
  Image.fromarray(gradient.repeat(3, 2)).save(buffer, 'PNG')
  whole = decode.view(buffer.getvalue(), resize=20, size=20)
  np.testing.assert_array_equal(whole[0, :, 0], np.arange(10, 30))
  half = decode.view(buffer.getvalue(), resize=10, size=10)
  np.testing.assert_allclose(half[0, :, 0], np.arange(10, 30, 2) + 0.5, atol=1)


def test_a_strip_that_would_grow_without_bounds():
  data = images.encoded(0, size=(60_000, 1))
  with pytest.raises(decode.DamagedImageError, match='after resizing'):
    decode.view(data, resize=256, size=224)


def test_no_resize_needs_the_exact_size():
  data = images.encoded(0, size=(24, 20))
  with pytest.raises(ValueError, match=r'24x20.*20x20'):
    decode.view(data, resize=0, size=20)


def test_random_boxes_keep_to_their_ranges():
  rng = np.random.default_rng(0)
  shares, ratios = [], []
  for _ in range(500):
    left, top, right, bottom = random_box(
      (300, 200), rng, (0.25, 0.5), (0.75, 4 / 3)
    )
    assert 0 <= left < right <= 300
    assert 0 <= top < bottom <= 200
    shares.append((right - left) * (bottom - top) / 60_000)
    ratios.append((right - left) / (bottom - top))
  assert 0.24 < min(shares) < 0.28 and 0.47 < max(shares) < 0.51
  assert 0.73 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.36


def test_random_box_falls_back_to_the_centre():
  # No box of the whole area fits a ratio of 10.
  box = random_box((1000, 100), np.random.default_rng(0), (1, 1), (0.75, 4 / 3))
  assert box == (433, 0, 566, 100)
