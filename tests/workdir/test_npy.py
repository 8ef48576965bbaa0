"""Reads .npy files, and refuses what is none in one line."""

import warnings

import numpy as np
import pytest

from mrl_jax.workdir import npy


@pytest.mark.parametrize('mmap', [False, True])
@pytest.mark.parametrize('order', ['C', 'F'])
def test_what_was_saved_is_loaded(tmp_path, mmap, order):
  array = np.asarray(np.arange(12.0).reshape(3, 4), order=order)
  np.save(tmp_path / 'x.npy', array)
  loaded = npy.load(tmp_path / 'x.npy', mmap=mmap)
  np.testing.assert_array_equal(loaded, array)
  assert isinstance(loaded, np.memmap) == mmap


def test_an_empty_array_is_loaded(tmp_path):
  np.save(tmp_path / 'x.npy', np.empty((0, 4), np.float32))
  assert npy.load(tmp_path / 'x.npy', mmap=True).shape == (0, 4)


@pytest.mark.parametrize(
  ('content', 'line'),
  [
    (b'', 'is not a .npy file'),
    (b'PK\x03\x04 a zip file', 'is not a .npy file'),
    (b'\x93NUMPY\x03\x00', 'version'),
  ],
)
def test_what_is_no_array_is_refused(tmp_path, content, line):
  (tmp_path / 'x.npy').write_bytes(content)
  with pytest.raises(ValueError, match=line):
    npy.load(tmp_path / 'x.npy')


def test_objects_are_refused(tmp_path):
  np.save(tmp_path / 'x.npy', np.array([{}, None]), allow_pickle=True)
  with pytest.raises(ValueError, match='holds Python objects'):
    npy.load(tmp_path / 'x.npy')


@pytest.mark.parametrize('change', [-1, 1])
def test_a_file_of_another_length_is_refused(tmp_path, change):
  np.save(tmp_path / 'x.npy', np.arange(5.0))
  data = (tmp_path / 'x.npy').read_bytes() + b'0'
  (tmp_path / 'x.npy').write_bytes(data[: len(data) - 1 + change])
  with pytest.raises(ValueError, match='cut short or damaged'):
    npy.load(tmp_path / 'x.npy')


def test_damaged_headers_raise_value_errors(tmp_path):
  path = tmp_path / 'x.npy'
  np.save(path, np.zeros((3, 4), np.float32))
  sound = path.read_bytes()
  rng = np.random.default_rng(0)
  for _ in range(300):
    damaged = bytearray(sound)
    damaged[rng.integers(6, 128)] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      assert npy.load(path, mmap=bool(rng.integers(2))).nbytes <= len(sound)
    except ValueError as error:
      assert 'x.npy' in str(error)


def test_rows_are_appended(tmp_path):
  path = tmp_path / 'x.npy'
  rows = np.arange(60, dtype=np.float32).reshape(20, 3)
  with npy.Writer(path) as file:
    for start in range(0, 20, 7):
      file.append(rows[start : start + 7])
  with warnings.catch_warnings(action='error'):
    np.testing.assert_array_equal(np.load(path, mmap_mode='r'), rows)


def test_rows_of_another_shape(tmp_path):
  with npy.Writer(tmp_path / 'x.npy') as file:
    file.append(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r'\(4,\)'):
      file.append(np.zeros((2, 4)))
    file.append(np.zeros((1, 3)))
  assert np.load(tmp_path / 'x.npy').shape == (3, 3)
