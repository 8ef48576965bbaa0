"""JPEGs that become grids without being decoded."""

import shutil

import numpy as np
import pytest
import simplejpeg

from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.prepare import jpegtran
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.prepare.shrink import reencode
from tests.data.test_jpeg_box import jpeg
from tests.data.test_jpeg_box import KINDS

needs_program = pytest.mark.skipif(
  not shutil.which('jpegtran'), reason='jpegtran is not there'
)
SETTINGS = JpegSettings(400, lossless=True)


@needs_program
@pytest.mark.parametrize('kind', KINDS)
def test_pixels_and_crops_stay(kind):
  data = jpeg(**KINDS[kind])
  new = jpegtran.to_grid(data)
  frame = jpeg_box.read_frame(new)
  assert frame.grid and frame[:2] == (203, 301)
  np.testing.assert_array_equal(
    simplejpeg.decode_jpeg(new), simplejpeg.decode_jpeg(data)
  )
  for seed in range(3):
    crops = [
      decode.random_resized_crop(
        x, np.random.default_rng(seed), size=40, scale=(0.08, 1)
      )
      for x in (data, new)
    ]
    np.testing.assert_array_equal(*crops)
  assert jpegtran.to_grid(new) is new


@needs_program
def test_what_is_small_enough_is_written_so():
  data = jpeg()
  assert reencode(data, SETTINGS) == jpegtran.to_grid(data)
  assert reencode(data, SETTINGS._replace(lossless=False)) is data
  larger = reencode(data, SETTINGS._replace(max_side=100))
  assert jpeg_box.read_frame(larger)[:2] == (67, 100)
  assert 'version' in jpegtran.version()


@needs_program
def test_what_it_cannot_write_is_left_alone():
  data = jpeg()
  for other in (
    b'',
    data[:900],
    data[:900] + b'\xff\xd9',
    data[:90] + data[120:],
  ):
    assert jpegtran.to_grid(other) is other


def test_without_the_program(monkeypatch):
  monkeypatch.setattr(shutil, 'which', lambda name: None)
  with pytest.raises(ValueError, match='the program jpegtran is not found'):
    jpegtran.version()
