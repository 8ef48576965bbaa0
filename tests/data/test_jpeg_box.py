"""Crops of JPEGs that are not decoded to their end."""

import io

import numpy as np
from PIL import Image
import pytest
from scipy import ndimage

from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images import resize as resample
from tests import images


def jpeg(size=(203, 301), *, mode='RGB', **options) -> bytes:
  """A smooth random image, as photos are."""
  rng = np.random.default_rng(0)
  noise = ndimage.gaussian_filter(rng.normal(size=(*size[::-1], 3)), (3, 3, 0))
  pixels = np.clip(128 + 400 * noise, 0, 255).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(
    buffer, 'JPEG', **{'quality': 90, **options}
  )
  return buffer.getvalue()


KINDS = {
  '4:4:4': {'subsampling': 0},
  '4:2:2': {'subsampling': 1},
  '4:2:0': {'subsampling': 2},
  'grey': {'mode': 'L'},
  'progressive': {'progressive': True},
  'restart markers': {'restart_marker_rows': 1},
  'RGB inside': {'keep_rgb': True},
  'EXIF first': {'exif': b'Exif\0\0' + b'\xff\xc0\xff\xd9' * 500},
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('box', [(5, 9, 60, 49), (0, 0, 203, 301)])
def test_the_pixels_are_pillows(kind, box):
  data = jpeg(**KINDS[kind])
  frame = jpeg_box.read_frame(data)
  assert (frame.width, frame.height) == (203, 301)
  pixels, found = jpeg_box.decode(data, frame, box, size=200)
  assert found == box
  rows = 64 if frame.band == 16 else 56
  assert len(pixels) == (rows if box[3] == 49 else 301)
  whole = np.asarray(decode.open_rgb(data)).astype(int)
  # Two builds of libjpeg-turbo round alike, or nearly.
  assert abs(pixels[: box[3]] - whole[: box[3]]).max() <= 1


@pytest.mark.parametrize(
  'size, factor', [(100, 1), (72, 1), (71, 2), (36, 2), (35, 4), (1, 8)]
)
def test_large_boxes_are_decoded_smaller(size, factor):
  data = jpeg()
  frame = jpeg_box.read_frame(data)
  box = (21, 13, 21 + 143, 13 + 190)
  pixels, found = jpeg_box.decode(data, frame, box, size=size)
  assert found == tuple(side / factor for side in box)
  assert pixels.shape[1] == -(-203 // factor)
  assert found[3] <= len(pixels) < found[3] + 16 / factor + 2
  whole = Image.fromarray(np.asarray(decode.open_rgb(data)))
  expected = whole.crop(box).resize((size, size), Image.Resampling.BILINEAR)
  difference = resample.resize_box(pixels, found, size) - np.asarray(
    expected, float
  )
  assert abs(difference).mean() < 3


def test_crops_are_near_a_reference():
  for kind, options in KINDS.items():
    data = jpeg(**options)
    found = decode.random_resized_crop(
      data, np.random.default_rng(1), size=64, scale=(0.08, 1)
    )
    box = decode.random_box(
      (203, 301), np.random.default_rng(1), (0.08, 1), (3 / 4, 4 / 3)
    )
    image = decode.open_rgb(data).crop(box)
    expected = image.resize((64, 64), Image.Resampling.BILINEAR)
    assert (found.shape, found.dtype) == ((64, 64, 3), np.uint8)
    difference = abs(found - np.asarray(expected, float)).mean()
    assert difference < 1, kind


def test_both_resizers_agree():
  if resample.cykooz_resizer is None:
    pytest.skip('cykooz-resizer is not installed')
  pixels = (
    np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
  )
  for box in ((0, 0, 70, 90), (0.5, 0.25, 40, 61.75), (3, 4, 5, 6)):
    a, b = (
      resize(pixels, box, 32).astype(int)
      for resize in (resample._with_cykooz, resample.resize_with_pillow)
    )
    assert abs(a - b).max() <= 1


@pytest.mark.parametrize('cut', [1, 2, 500, 5000])
def test_cut_short(cut):
  data = jpeg()[:-cut]
  assert jpeg_box.read_frame(data) is None
  with pytest.raises(decode.DamagedImageError):
    decode.random_resized_crop(
      data, np.random.default_rng(0), size=16, scale=(0.1, 0.2)
    )


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('at', [0.3, 0.5, 0.98])
@pytest.mark.parametrize('bottom', [40, 301])
def test_a_second_header_in_the_middle(progressive, at, bottom):
  data = jpeg(progressive=progressive)
  at = int(at * len(data))
  data = data[:at] + b'\xff\xc0\x00\x11' + data[at + 4 :]
  frame = jpeg_box.read_frame(data)
  assert jpeg_box.decode(data, frame, (0, 0, 40, bottom), size=30) is None
  with pytest.raises(decode.DamagedImageError):
    decode.open_rgb(data)


def test_broken_headers():
  data = jpeg()
  at = data.index(b'\xff\xda')
  for broken in (
    data[:at] + b'\xff\xd9',
    data[:at] + data[at:].replace(b'\x03', b'\x07', 1),
    b'\xff\xd8\xff\xd9',
    b'\xff\xd8' + b'\xff' * 100 + b'\xff\xd9',
    b'\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03\x01\xff\xd9',
  ):
    with pytest.raises(decode.DamagedImageError):
      decode.random_resized_crop(
        broken, np.random.default_rng(0), size=16, scale=(0.1, 1)
      )


@pytest.mark.parametrize(
  'mode, image_format', [('CMYK', 'JPEG'), ('RGB', 'PNG'), ('P', 'PNG')]
)
def test_pillow_takes_the_rest(mode, image_format):
  data = images.encoded(0, mode=mode, image_format=image_format)
  assert jpeg_box.read_frame(data) is None
  found = decode.random_resized_crop(
    data, np.random.default_rng(0), size=16, scale=(0.1, 1)
  )
  assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)
