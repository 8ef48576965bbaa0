"""JPEGs of which a box is cut without decoding the rest."""

import io
import os

import numpy as np
from PIL import Image
import pytest
import simplejpeg

from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images import jpeg_grid
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.prepare.shrink import reencode
from tests.data.test_jpeg_box import jpeg

SIZES = ((1, 1), (15, 40), (64, 16), (203, 301), (496, 33), (500, 90))
# Mutations: a second; MRL_JAX_CASES=2000 takes half a minute.
CASES = int(os.environ.get('MRL_JAX_CASES', 150))
# Pillow's name of a subsampling, and the mode.
KINDS = {'4:4:4': 0, '4:2:2': 1, '4:2:0': 2, 'grey': 0}


def photo(size, mode='RGB') -> Image.Image:
  return decode.open_rgb(jpeg(size, quality=99)).convert(mode)


def gridded(size, kind='4:2:0') -> bytes:
  mode = 'L' if kind == 'grey' else 'RGB'
  return jpeg_grid.encode(
    photo(size, mode), quality=90, subsampling=KINDS[kind]
  )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_pixels_equal_those_of_the_whole(kind, size):
  data = gridded(size, kind)
  frame = jpeg_box.read_frame(data)
  assert frame[:2] == size
  assert decode.open_rgb(data).size == size
  rng = np.random.default_rng(0)
  width, height = size
  for factor in (1, 2, 4, 8):
    whole = simplejpeg.decode_jpeg(
      data,
      min_factor=factor,
      min_width=-(-width // factor),
      min_height=-(-height // factor),
    )
    for _ in range(6):
      left, right = np.sort(rng.choice(width + 1, 2, replace=False))
      top, bottom = np.sort(rng.choice(height + 1, 2, replace=False))
      shorter = min(right - left, bottom - top)
      if shorter < factor:
        continue
      box = (int(left), int(top), int(right), int(bottom))
      pixels, found = jpeg_box.decode(data, frame, box, size=shorter // factor)
      scale = (box[2] - box[0]) / (found[2] - found[0])
      if scale != factor:
        continue
      x, y = (int(np.ceil(side)) for side in found[:2])
      across, down = (int(np.floor(s)) for s in found[2:])
      shift_x, shift_y = (
        round(side / factor - other)
        for side, other in zip(box[:2], found[:2], strict=True)
      )
      np.testing.assert_array_equal(
        pixels[y:down, x:across],
        whole[y + shift_y : down + shift_y, x + shift_x : across + shift_x],
      )


def test_every_image_has_whole_segments_and_its_own_size():
  for width in (1, 16, 17, 333, 367, 490, 500):
    image = photo((width, 20))
    data = jpeg_grid.encode(image, quality=100, subsampling=0)
    grid = jpeg_box.read_frame(data).grid
    assert grid.blocks * grid.across * 8 - width in range(8)
    # As any software reads it.
    with Image.open(io.BytesIO(data)) as found:
      assert found.size == image.size
      difference = abs(np.asarray(found, int) - np.asarray(image))
    assert difference.max() < 6
    assert reencode(data, JpegSettings(600, 90)) is data


@pytest.mark.parametrize(
  'columns, blocks', [(32, 4), (24, 4), (21, 3), (25, 5), (23, 1), (31, 1)]
)
def test_blocks_of_a_segment(columns, blocks):
  assert jpeg_grid.segment_blocks(16 * columns - 3, 16) == blocks


def test_segments_before_the_box_are_not_decoded():
  data = gridded((500, 320))
  frame = jpeg_box.read_frame(data)
  pixels, box = jpeg_box.decode(data, frame, (260, 170, 300, 200), size=30)
  assert pixels.shape == (48, 64, 3)
  assert box == (4, 10, 44, 40)


@pytest.mark.parametrize('kind', KINDS)
def test_the_evaluation_view_is_that_of_the_whole(kind):
  for size in SIZES[1:]:
    data = gridded(size, kind)
    image = decode.open_rgb(data)
    for resize, side in ((64, 64), (64, 56), (33, 20), (min(size), 9)):
      found = decode.view(data, resize=resize, size=side)
      expected = decode.evaluation_view(image, resize=resize, size=side)
      difference = abs(found.astype(int) - expected)
      # In one direction after the other.
      assert difference.max() <= 2
      assert difference.mean() < 0.2


def test_the_evaluation_view_decodes_what_it_shows(monkeypatch):
  decoded = []
  cut = jpeg_grid.cut
  monkeypatch.setattr(
    jpeg_grid, 'cut', lambda *args: decoded.append(cut(*args)[1]) or cut(*args)
  )
  data = gridded((500, 320))
  decode.view(data, resize=256, size=160)
  assert decoded == [(128, 48, 384, 272)]
  broken = renumbered(data, 5, 0xD0)
  with pytest.raises(decode.DamagedImageError, match='count up'):
    decode.view(broken, resize=256, size=160)


def test_a_box_of_one_pixel():
  data = gridded((203, 301))
  frame = jpeg_box.read_frame(data)
  whole = simplejpeg.decode_jpeg(data)
  for x, y in ((0, 0), (202, 300), (63, 16), (64, 15), (100, 200)):
    pixels, box = jpeg_box.decode(data, frame, (x, y, x + 1, y + 1), size=1)
    found = pixels[int(box[1]), int(box[0])]
    np.testing.assert_array_equal(found, whole[y, x])


def crop(data, seed=0, **options):
  options = {'size': 16, 'scale': (0.08, 1.0)} | options
  return decode.random_resized_crop(
    data, np.random.default_rng(seed), **options
  )


@pytest.mark.parametrize('width', [65500, 65484])
def test_the_widest_images(width):
  image = Image.new('RGB', (width, 3), 'red')
  data = jpeg_grid.encode(image, quality=90)
  assert jpeg_box.read_frame(data)[:2] == (width, 3)
  assert crop(data).shape == (16, 16, 3)
  with pytest.raises(OSError):
    jpeg_grid.encode(Image.new('L', (65501, 1)), quality=90)


def test_the_tallest_image():
  data = jpeg_grid.encode(Image.new('RGB', (40, 65500), 'red'), quality=90)
  assert crop(data).shape == (16, 16, 3)


def renumbered(data, which, value):
  """Replaces a restart marker."""
  at = [
    i
    for i in range(len(data) - 1)
    if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7
  ][which]
  return data[: at + 1] + bytes([value]) + data[at + 2 :]


def test_markers_that_do_not_count_up():
  data = gridded((203, 301))
  for which, value in ((0, 0xD1), (5, 0xD4), (7, 0xD9), (3, 0), (9, 0xE0)):
    with pytest.raises(decode.DamagedImageError, match='count up'):
      crop(renumbered(data, which, value), scale=(1, 1))


def test_headers_that_are_wrong():
  data = gridded((500, 60))
  width = jpeg_box.read_frame(data).offset + 2
  for other in (0, 1, 240, 464):
    broken = data[:width] + other.to_bytes(2) + data[width + 2 :]
    with pytest.raises(decode.DamagedImageError):
      crop(broken)
  interval = data.index(b'\xff\xdd') + 4
  for blocks in (0, 7, 65535):
    broken = data[:interval] + blocks.to_bytes(2) + data[interval + 2 :]
    with pytest.raises(decode.DamagedImageError):
      crop(broken)
  # A scan that would begin behind the end, in an image of one segment.
  single = gridded((40, 10))
  length = single.index(b'\xff\xda') + 2
  with pytest.raises(decode.DamagedImageError):
    crop(single[:length] + b'\xff\xf0' + single[length + 2 :])
  # An end that comes too soon, as of a file that was cut and mended.
  for cut in (20, 500, 2000):
    with pytest.raises(decode.DamagedImageError):
      crop(data[:-cut] + b'\xff\xd9', scale=(1, 1), ratio=(8.3, 8.4))
    with pytest.raises(decode.DamagedImageError):
      crop(data[:-cut])


def mutate(data: bytes, rng) -> bytes:
  """Changes, removes or repeats bytes; a third of the times in the header."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    most = 700 if rng.random() < 1 / 3 else len(data) - 2
    at = int(rng.integers(2, most))
    length = int(rng.choice([1, 2, 9, 300]))
    kind = rng.integers(4)
    if kind == 0:
      data[at : at + 1] = bytes([rng.integers(256)])
    elif kind == 1:
      data[at : at + length] = b''
    elif kind == 2:
      data[at:at] = data[at : at + length]
    else:
      data[at : at + 2] = bytes([255, rng.integers(0xC0, 256)])
  return bytes(data)


def test_mutations(count=CASES):
  """Any damage leads to a crop or a DamagedImageError."""
  originals = [gridded((203, 90)), gridded((367, 60), 'grey')]
  rng = np.random.default_rng(0)
  refused = 0
  for i in range(count):
    try:
      found = crop(mutate(originals[i % 2], rng), seed=i)
      assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)
    except decode.DamagedImageError:
      refused += 1
  assert count / 5 < refused < count


def test_the_loop_reads_nothing_outside_its_arrays():
  """Run by Python, an index beyond the end is an error."""
  data = gridded((203, 60))
  rng = np.random.default_rng(1)
  find = jpeg_grid._find_marker
  jpeg_grid._find_marker = find.py_func
  try:
    for broken in (data, *(mutate(data, rng) for _ in range(12))):
      words = np.frombuffer(broken, '<u8', len(broken) // 8)
      arrays = np.frombuffer(broken, np.uint8), words
      results = []
      for run in (jpeg_grid._cut.py_func, jpeg_grid._cut):
        found = np.zeros(len(broken), np.uint8)
        with np.errstate(over='ignore'):
          count = run(*arrays, 620, (4, 4), (1, 1, 3, 4), found)
        results.append((count, found[:count].tobytes()))
      assert results[0] == results[1]
  finally:
    jpeg_grid._find_marker = find
