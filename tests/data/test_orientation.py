"""Pixels as a person sees them, with Pillow's exif_transpose as the oracle."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from PIL import ImageOps
from PIL import PngImagePlugin
import pytest
from scipy import ndimage

from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images import orientation
from mrl_jax.data.prepare.rewrite import write_dataset
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.prepare.shrink import reencode
from mrl_jax.data.sources import datasets
from mrl_jax.interop import encoder as encode

TURNS = range(1, 9)


def photo(size=(203, 301)) -> Image.Image:
  """A smooth image without any symmetry."""
  rng = np.random.default_rng(0)
  noise = ndimage.gaussian_filter(rng.normal(size=size[::-1]), 6)[..., None]
  tint = np.array([0, 40, 80]) * np.linspace(0, 1, size[0])[None, :, None]
  pixels = np.clip(90 + tint + 500 * noise, 0, 255)
  return Image.fromarray(pixels.astype(np.uint8))


def tagged(image, value, image_format='JPEG', **options) -> bytes:
  exif = Image.Exif()
  exif[0x010F] = 'maker'
  exif[orientation._TAG] = value
  buffer = io.BytesIO()
  image.save(buffer, image_format, exif=exif, **options)
  return buffer.getvalue()


def oracle(data: bytes) -> Image.Image:
  return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')


def resized(image, *, resize, size):
  """The evaluation view by torchvision's rule, with Pillow alone."""
  width, height = image.size
  shorter = min(width, height)
  image = image.resize(
    (width * resize // shorter, height * resize // shorter),
    Image.Resampling.BILINEAR,
  )
  left, top = (round((side - size) / 2) for side in image.size)
  return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize('value', TURNS)
@pytest.mark.parametrize(
  'image_format, options',
  [
    ('JPEG', {}),
    ('JPEG', {'progressive': True}),
    ('PNG', {}),
    ('WEBP', {'lossless': True}),
    ('TIFF', {}),
    ('TIFF', {'compression': 'tiff_lzw'}),
    ('AVIF', {}),
  ],
)
def test_every_format_is_turned_as_pillow_does(value, image_format, options):
  if image_format == 'AVIF' and 'AVIF' not in Image.SAVE:
    pytest.skip('this Pillow has no AVIF')
  data = tagged(photo((40, 26)), value, image_format, **options)
  found = decode.open_rgb(data, as_seen=True)
  np.testing.assert_array_equal(np.asarray(found), np.asarray(oracle(data)))
  view = decode.view(data, resize=20, size=17, as_seen=True)
  np.testing.assert_array_equal(view, resized(oracle(data), resize=20, size=17))
  if image_format != 'TIFF':  # Pillow turns those by itself.
    stored = decode.open_rgb(data)
    assert stored.size == (40, 26)
    assert np.array_equal(stored, found) == (value == 1)


@pytest.mark.parametrize('value', TURNS)
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])  # CMYK is Pillow's.
@pytest.mark.parametrize('size', [16, 64, 150])  # At 1/8 to 1/1.
def test_random_crops_are_those_of_the_turned_image(value, mode, size):
  data = tagged(photo().convert(mode), value, quality=95)
  upright = oracle(data)
  for seed in range(6):
    options = {'size': size, 'scale': (0.1, 1)}
    found = decode.random_resized_crop(
      data, np.random.default_rng(seed), as_seen=True, **options
    )
    box = decode.random_box(
      upright.size, np.random.default_rng(seed), (0.1, 1), (3 / 4, 4 / 3)
    )
    expected = upright.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    difference = abs(found - np.asarray(expected, float))
    assert difference.mean() < 2.5 and np.percentile(difference, 99) < 12


@pytest.mark.parametrize('value', TURNS)
def test_a_box_of_the_turned_image_is_found_in_the_stored_one(value):
  stored = np.arange(6 * 4 * 3).reshape(6, 4, 3)
  seen = orientation.turn_pixels(stored, value)
  as_image = orientation.turn(Image.fromarray(stored.astype('u1')), value)
  np.testing.assert_array_equal(seen, np.asarray(as_image))
  size = orientation.turned_size((4, 6), value)
  assert size == (seen.shape[1], seen.shape[0])
  left, top, right, bottom = box = (1, 0, 3, 4)
  x0, y0, x1, y1 = orientation.stored_box(box, size, value)
  np.testing.assert_array_equal(
    orientation.turn_pixels(stored[y0:y1, x0:x1], value),
    seen[top:bottom, left:right],
  )


@pytest.mark.parametrize('value', TURNS)
@pytest.mark.parametrize('max_side', [301, 100, 40])
def test_reencoded_images_stand_upright(value, max_side):
  data = tagged(photo(), value, quality=95)
  new = reencode(data, JpegSettings(max_side, 95), as_seen=True)
  assert (new is data) == (value == 1 and max_side == 301)
  found = decode.open_rgb(new)
  if new is not data:
    assert 0x0112 not in Image.open(io.BytesIO(new)).getexif()
  expected = oracle(data)
  scale = max_side / max(expected.size)
  expected = expected.resize([round(x * scale) for x in expected.size])
  assert found.size == expected.size
  difference = abs(np.subtract(found, expected, dtype=float))
  assert difference.mean() < 3
  # Without it, all stays as it was.
  assert reencode(data, JpegSettings(301, 95)) is data


def _jpeg_with(exif: bytes) -> bytes:
  buffer = io.BytesIO()
  photo((40, 26)).save(buffer, 'JPEG', exif=exif)
  return buffer.getvalue()


def _entry(endian: str, kind: int, value: int) -> bytes:
  order = b'II*\0' if endian == '<' else b'MM\0*'
  packed = {1: 'B3x', 3: 'H2x', 4: 'I'}[kind]
  entry = struct.pack(f'{endian}HHI{packed}', 0x0112, kind, 1, value)
  start = struct.pack(f'{endian}IH', 8, 1)
  return b'Exif\0\0' + order + start + entry + b'\0' * 4


XMP = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'


@pytest.mark.filterwarnings('ignore::UserWarning:PIL.*')
def test_the_quick_reading_is_pillows():
  """All kinds of entries, damaged ones among them: never another answer."""
  headers = [
    _entry(endian, kind, value)
    for endian in '<>'
    for kind in (1, 3, 4)
    for value in (0, 1, 2, 6, 8, 9)
  ]
  whole = _entry('<', 3, 6)
  headers += [whole[:cut] for cut in range(8, len(whole), 3)]
  rng = np.random.default_rng(0)
  for _ in range(300):
    bent = bytearray(_entry(rng.choice([*'<>']), 3, int(rng.integers(1, 9))))
    bent[rng.integers(6, len(bent))] = rng.integers(256)
    headers.append(bytes(bent))
  turned = 0
  for header in headers:
    data = _jpeg_with(header)
    frame = jpeg_box.read_frame(data)
    found = orientation.read_jpeg(data, frame.offset)
    image = Image.open(io.BytesIO(data))
    assert found == orientation.read(image), header
    # Metadata that Pillow cannot read refuse no pixels.
    assert decode.open_rgb(data, as_seen=True).size == (
      (26, 40) if found > 4 else (40, 26)
    )
    turned += found != 1
  assert 50 < turned < len(headers)


def test_xmp_tells_it_too():
  buffer = io.BytesIO()
  photo((40, 26)).save(buffer, 'JPEG')
  plain = buffer.getvalue()
  segment = b'\xff\xe1' + (len(XMP) + 2).to_bytes(2) + XMP
  data = plain[:2] + segment + plain[2:]
  frame = jpeg_box.read_frame(data)
  assert orientation.read_jpeg(data, frame.offset) == 6
  assert oracle(data).size == (26, 40)
  assert decode.open_rgb(data, as_seen=True).size == (26, 40)


@pytest.fixture
def folder(tmp_path):
  for split in ('train', 'val'):
    for name, value in (('cat', 1), ('dog', 6)):
      path = tmp_path / 'mine' / split / name / '0.jpg'
      path.parent.mkdir(parents=True)
      path.write_bytes(tagged(photo(), value))
  return tmp_path / 'mine'


@pytest.mark.parametrize('max_side', [0, 100])
def test_folders_are_upright_and_so_is_what_is_prepared_of_them(
  folder, tmp_path, max_side
):
  out = tmp_path / 'out'
  jpeg = JpegSettings(max_side) if max_side else None
  write_dataset(f'folder:{folder}', out, jpeg=jpeg, workers=1)
  for dataset in (f'folder:{folder}', str(out)):
    for as_seen, sizes in (('auto', [203 / 301, 301 / 203]), ('no', None)):
      opened = datasets.open_source(dataset, 'train', as_seen=as_seen)
      found = []
      for i in range(2):
        example = opened.read(i)
        assert example.as_seen == (as_seen == 'auto')
        image = decode.open_rgb(example.data, as_seen=example.as_seen)
        found.append(image.width / image.height)
      if sizes:
        np.testing.assert_allclose(found, sizes, rtol=0.02)


def test_tfds_datasets_are_as_stored_unless_told(data_dir):
  for as_seen in datasets.AS_SEEN:
    opened = datasets.open_source('digits', 'test', data_dir, as_seen=as_seen)
    assert opened.read(0).as_seen == (as_seen == 'yes')


def encoder(**preprocess) -> encode.Encoder:
  opened = object.__new__(encode.Encoder)
  opened.preprocess = {'resize': 40, 'size': 32, **preprocess}
  return opened


@pytest.mark.parametrize('value', [1, 3, 6])
def test_encode_turns_paths_bytes_and_pil_images(tmp_path, value):
  data = tagged(photo(), value)
  (tmp_path / 'x.jpg').write_bytes(data)
  expected = resized(oracle(data), resize=40, size=32)
  opened = Image.open(tmp_path / 'x.jpg')
  for image in (data, tmp_path / 'x.jpg', opened, oracle(data)):
    found = encoder(as_seen=True).view(image)
    np.testing.assert_array_equal(found, expected)
  # An export from before there was the field goes on as it was.
  stored = Image.open(io.BytesIO(data)).convert('RGB')
  np.testing.assert_array_equal(
    encoder().view(data), resized(stored, resize=40, size=32)
  )


def _png_with(*chunks: tuple[bytes, bytes]) -> bytes:
  buffer = io.BytesIO()
  photo((40, 26)).save(buffer, 'PNG')
  png = buffer.getvalue()
  added = b''
  for kind, content in chunks:
    check = zlib.crc32(kind + content).to_bytes(4)
    added += len(content).to_bytes(4) + kind + content + check
  return png[:33] + added + png[33:]


@pytest.mark.parametrize(
  'kind, megabytes',
  [(b'tEXt', 66), (b'zTXt', 1.5), (b'iTXt', 1.5), (b'iCCP', 1.5)],
)
def test_metadata_refuse_no_pixels(kind, megabytes):
  text = b'x' * int(megabytes * 1e6)
  content = {
    b'tEXt': lambda: b'Comment\0' + text,
    b'zTXt': lambda: b'Comment\0\0' + zlib.compress(text),
    b'iTXt': lambda: b'Comment\0\1\0\0\0' + zlib.compress(text),
    b'iCCP': lambda: b'icc\0\0' + zlib.compress(text),
  }[kind]()
  exif = _entry('>', 3, 6)[6:]
  data = _png_with((b'eXIf', exif), (kind, content))
  found = decode.open_rgb(data, as_seen=True)
  expected = photo((40, 26)).transpose(Image.Transpose.ROTATE_270)
  np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_an_orientation_in_a_text_is_kept_beside_a_large_profile():
  info = PngImagePlugin.PngInfo()
  exif = _entry('<', 3, 3)
  info.add_text('Raw profile type exif', f'\nexif\n 32\n{exif.hex()}\n')
  info.add(b'iCCP', b'icc\0\0' + zlib.compress(b'x' * 1_500_000))
  buffer = io.BytesIO()
  photo((40, 26)).save(buffer, 'PNG', pnginfo=info)
  found = decode.open_rgb(buffer.getvalue(), as_seen=True)
  expected = photo((40, 26)).transpose(Image.Transpose.ROTATE_180)
  np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
