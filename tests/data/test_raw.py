"""Images stored as their pixels."""

import io

import numpy as np
from PIL import Image
import pytest

from mrl_jax.data.images import decode
from mrl_jax.data.images import raw
from mrl_jax.data.prepare import manifest
from mrl_jax.data.prepare.rewrite import write_dataset
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.prepare.shrink import reencode
from mrl_jax.data.sources import datasets
from tests import images


def crop(data, seed=0):
  return decode.random_resized_crop(
    data, np.random.default_rng(seed), size=8, scale=(0.08, 1.0)
  )


@pytest.mark.parametrize('size', [(1, 1), (31, 20), (300, 9)])
def test_pixels_and_crops_are_those_of_a_png(size):
  png = images.encoded(0, size=size)
  image = decode.open_rgb(png)
  data = raw.encode(image)
  np.testing.assert_array_equal(raw.read(data), image)
  np.testing.assert_array_equal(Image.open(io.BytesIO(data)), image)
  for seed in range(4):
    np.testing.assert_array_equal(crop(data, seed), crop(png, seed))
  views = [decode.view(x, resize=9, size=8) for x in (data, png)]
  np.testing.assert_array_equal(*views)


def test_damaged():
  data = raw.encode(decode.open_rgb(images.encoded(0)))
  for broken in (data[:-1], data[:20], data.replace(b'24 20', b'25 20')):
    assert raw.read(broken) is None
    with pytest.raises(decode.DamagedImageError):
      crop(broken)
  for other in (b'', b'P6\n0 0\n255\n', data + b'\0', data.replace(b'P', b'Q')):
    assert raw.read(other) is None


def test_a_share_of_a_dataset_is_raw(tmp_path):
  folder = images.write_folder(tmp_path / 'mine', splits=('train',), each=12)
  jpeg = JpegSettings(16, raw_share=0.5)
  for name, workers in (('out', 1), ('again', 2)):
    write_dataset(
      f'folder:{folder}', tmp_path / name, jpeg=jpeg, workers=workers
    )
  found, again = (
    datasets.open_source(str(tmp_path / name), 'train')
    for name in ('out', 'again')
  )
  stored = [found.read(i).data for i in range(len(found))]
  assert stored == [again.read(i).data for i in range(len(found))]
  kinds = [data[:2] for data in stored]
  assert set(kinds) == {b'P6', b'\xff\xd8'}
  assert 4 < kinds.count(b'P6') < 20
  manifest.verify(tmp_path / 'out')
  with pytest.raises(ValueError, match='raw_share'):
    write_dataset(
      f'folder:{folder}', tmp_path / 'out', jpeg=jpeg._replace(raw_share=0.2)
    )


def test_all_or_none():
  data = images.encoded(0, image_format='JPEG')
  assert reencode(data, JpegSettings(24)) is data
  assert raw.read(reencode(data, JpegSettings(24, raw_share=1.0))).shape == (
    *(20, 24, 3),
  )
