"""Datasets written a second time, with smaller images."""

import io
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mrl_jax.data.images import decode
from mrl_jax.data.images import jpeg_box
from mrl_jax.data.prepare import __main__ as prepare
from mrl_jax.data.prepare import manifest
from mrl_jax.data.prepare import processes
from mrl_jax.data.prepare import shards
from mrl_jax.data.prepare.rewrite import write_dataset
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.prepare.shrink import reencode
from mrl_jax.data.sources import datasets
from tests import images

SMALL = JpegSettings(max_side=16)


def write(folder, out, **options):
  options = {'jpeg': SMALL, 'workers': 1} | options
  return write_dataset(f'folder:{folder}', out, **options)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def examples(dataset, split):
  opened = datasets.open_source(str(dataset), split)
  return [opened.read(i) for i in range(len(opened))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, '_MOST_IMAGES', 2)
  return images.write_folder(tmp_path / 'mine')


@pytest.mark.parametrize(
  'size, expected',
  [
    ((40, 20), (16, 8)),
    ((20, 40), (8, 16)),
    ((17, 17), (16, 16)),
    ((16, 9), (16, 9)),
    ((400, 1), (16, 1)),
  ],
)
def test_sizes(size, expected):
  data = images.encoded(0, size=size)
  found = Image.open(io.BytesIO(reencode(data, JpegSettings(16, 90))))
  assert (found.size, found.mode, found.format) == (expected, 'RGB', 'JPEG')


@pytest.mark.parametrize(
  'mode, image_format', [('CMYK', 'JPEG'), ('L', 'JPEG'), ('RGB', 'PNG')]
)
def test_what_is_no_rgb_jpeg_becomes_one(mode, image_format):
  data = images.encoded(0, size=(96, 64), mode=mode, image_format=image_format)
  new = reencode(data, JpegSettings(96, 95))
  found = Image.open(io.BytesIO(new))
  assert (found.size, found.mode, found.format) == ((96, 64), 'RGB', 'JPEG')
  expected = np.asarray(decode.open_rgb(data), np.float32)
  assert abs(np.asarray(found) - expected).mean() < 4


def test_a_small_rgb_jpeg_is_left_alone():
  data = images.encoded(0, image_format='JPEG')
  assert reencode(data, JpegSettings(24, 1)) is data
  new = reencode(data, JpegSettings(24, 1, keep_small=False))
  assert new != data and Image.open(io.BytesIO(new)).size == (24, 20)
  lower = reencode(data, JpegSettings(23, 1))
  assert len(lower) < len(reencode(data, JpegSettings(23, 100)))


def test_decoding_a_large_jpeg_at_half_its_size_costs_no_quality():
  ramp = np.linspace(0, 255, 512 * 384 * 3).reshape(384, 512, 3)
  buffer = io.BytesIO()
  whole = Image.fromarray(ramp.astype(np.uint8))
  whole.save(buffer, 'JPEG', quality=95)
  small = decode.open_rgb(buffer.getvalue(), at_least=(200, 150))
  assert small.size == (256, 192)
  new = reencode(buffer.getvalue(), JpegSettings(100, 95))
  expected = whole.resize((100, 75), Image.Resampling.BICUBIC)
  found = np.asarray(decode.open_rgb(new), np.float32)
  assert abs(found - np.asarray(expected)).max() < 8


@pytest.mark.parametrize('cut', [300, 20, 0])
def test_damaged(cut):
  data = images.encoded(0, image_format='JPEG')[:cut]
  with pytest.raises(decode.DamagedImageError):
    reencode(data, JpegSettings(24, 90))


def test_keys_labels_and_class_names_are_kept(folder, tmp_path):
  out = tmp_path / 'out'
  written = write(folder, out)
  for split in ('train', 'val'):
    before, after = (
      [(example.key, example.label) for example in examples(dataset, split)]
      for dataset in (f'folder:{folder}', out)
    )
    assert after == before
  assert datasets.open_source(str(out), 'train').class_names == ('cat', 'dog')
  for example in examples(out, 'train'):
    found = Image.open(io.BytesIO(example.data))
    assert (found.size, found.format) == ((16, 13), 'JPEG')
  assert len(datasets.open_source(str(out), 'train[:50%]')) == 3
  assert written['splits']['train']['reencoded'] == 6
  assert len(written['shards']) == 6
  assert not (out / 'unfinished').exists()


def test_tfds_reads_it_without_tensorflow(folder, tmp_path):
  write(folder, tmp_path / 'out')
  builder = tfds.builder_from_directory(tmp_path / 'out')
  record = builder.as_data_source('val')[4]
  assert record['image'].shape == (13, 16, 3)
  assert builder.info.features['label'].int2str(record['label']) == 'dog'
  assert record['file_name'] == b'val/dog/111.png'


def test_copies_byte_for_byte(folder, tmp_path):
  (folder / 'train' / 'cat' / 'cut.png').write_bytes(images.encoded(0)[:50])
  write(folder, tmp_path / 'out', jpeg=None)
  assert examples(tmp_path / 'out', 'train') == examples(
    f'folder:{folder}', 'train'
  )


def test_a_tfds_dataset(data_dir, tmp_path):
  """Two processes; the labels and the order are those of the digits."""
  out = tmp_path / 'out'
  jpeg = JpegSettings(max_side=8)
  write_dataset('digits', out, data_dir=data_dir, jpeg=jpeg, workers=2)
  before = datasets.open_source('digits', 'test', data_dir)
  after = datasets.open_source(str(out), 'test')
  assert len(after) == len(before)
  for i in range(0, 449, 50):
    assert after.read(i)[1:] == before.read(i)[1:]
    pixels = [
      decode.open_rgb(opened.read(i).data) for opened in (before, after)
    ]
    assert abs(np.subtract(*np.asarray(pixels, np.float32))).mean() < 16


def test_damaged_images_are_left_out_and_listed(folder, tmp_path, capsys):
  for name in ('0', '1'):  # A whole shard.
    path = folder / 'train' / 'cat' / f'{name}.png'
    path.write_bytes(path.read_bytes()[:50])
  written = write(folder, tmp_path / 'out')
  damaged = ['train/cat/0.png', 'train/cat/1.png']
  assert sorted(written['splits']['train']['damaged']) == damaged
  keys = [example.key for example in examples(tmp_path / 'out', 'train')]
  assert len(keys) == 4
  assert not set(keys) & set(damaged)
  prepare.verify(str(tmp_path / 'out'))
  assert 'train: 4 images' in capsys.readouterr().out


def test_killed_and_resumed_to_the_same_bytes(folder, tmp_path):
  """kill -9 at the end of the second shard, and amid the third."""
  whole, out = tmp_path / 'whole', tmp_path / 'out'
  write(folder, whole)
  script = f"""
import os, signal, sys
from mrl_jax.workdir import files
from mrl_jax.data.prepare import rewrite, shards, shrink
shards._MOST_IMAGES = 2
amid, calls = sys.argv[1] == 'amid', []
def count_then(function):
  def counted(*args, **kwargs):
    calls.append(0)
    if len(calls) == (6 if amid else 3):
      os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **kwargs)
  return counted
if amid:
  shards.reencode = count_then(shards.reencode)
else:  # The settings, and the records of two shards.
  files.write_json = count_then(files.write_json)
rewrite.write_dataset(
  'folder:{folder}',
  '{out}',
  jpeg=shrink.JpegSettings(16),
  workers=1,
)
"""
  for when in ('amid', 'end'):
    shutil.rmtree(out, ignore_errors=True)
    killed = subprocess.run([sys.executable, '-c', script, when])
    assert killed.returncode == -signal.SIGKILL
    written = [path for path in out.iterdir() if path.name.startswith('folder')]
    assert len(written) == 2
    with pytest.raises(ValueError, match=r'no dataset_info\.json'):
      datasets.open_source(str(out), 'train')
    first = min(written).stat().st_mtime_ns
    write(folder, out)
    assert contents(out) == contents(whole)
    assert min(written).stat().st_mtime_ns == first


def test_a_finished_folder_is_left_alone(folder, tmp_path):
  written = write(folder, tmp_path / 'out')
  times = {path: path.stat().st_mtime_ns for path in tmp_path.glob('out/*')}
  assert write(folder, tmp_path / 'out') == written
  assert times == {path: path.stat().st_mtime_ns for path in times}
  max(tmp_path.glob('out/folder-*')).unlink()
  with pytest.raises(ValueError, match='is missing'):
    write(folder, tmp_path / 'out')


def test_other_settings_are_refused(folder, tmp_path):
  write(folder, tmp_path / 'out')
  with pytest.raises(
    ValueError, match='max_side is 16 there and 17 now'
  ) as error:
    write(folder, tmp_path / 'out', jpeg=JpegSettings(17))
  assert '\n' not in str(error.value)
  (folder / 'train' / 'cat' / 'new.png').write_bytes(images.encoded(1))
  with pytest.raises(ValueError, match=r'images\.train is 6 there'):
    write(folder, tmp_path / 'out')


def test_verify(folder, tmp_path):
  out = tmp_path / 'out'
  write(folder, out)
  manifest.verify(out)
  first = datasets.open_source(str(out), 'train').read(0)
  assert jpeg_box.read_frame(first.data).grid
  shard = max(out.glob('folder-*'))
  whole = shard.read_bytes()
  flipped = bytearray(whole)
  flipped[len(whole) // 2] ^= 1
  shard.write_bytes(flipped)
  with pytest.raises(ValueError, match=f'{shard.name} has another checksum'):
    manifest.verify(out)
  shard.write_bytes(whole[:-1])
  with pytest.raises(ValueError, match=f'{shard.name} has .* bytes instead'):
    manifest.verify(out)
  shard.unlink()
  with pytest.raises(ValueError, match=f'{shard.name} is missing'):
    manifest.verify(out)
  with pytest.raises(ValueError, match=r'no manifest.json there'):
    manifest.verify(folder)


def test_a_full_disk(folder, tmp_path):
  """A limit on the size of files stands for it."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
  try:
    with pytest.raises(ValueError, match='File too large'):
      write(folder, tmp_path / 'out')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {'unfinished'}
  write(folder, tmp_path / 'out')
  manifest.verify(tmp_path / 'out')


def test_where_it_may_not_write(folder, tmp_path):
  with pytest.raises(ValueError, match='is inside the dataset'):
    write(folder, folder / 'train' / 'out')
  with pytest.raises(ValueError, match='holds something else'):
    write(folder, tmp_path)
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='file is a file'):
    write(folder, tmp_path / 'file')


@pytest.mark.parametrize(
  'options, match',
  [
    ({'max_side': 0}, '--max_side=0: must be at least 1'),
    ({'max_side': 9, 'quality': 0}, r'--quality=0: must be in 1\.\.100'),
    ({'max_side': 9, 'quality': 101}, r'--quality=101: must be in 1\.\.100'),
    ({'quality': 80}, '--quality needs --max_side'),
    ({'workers': -1}, '--workers=-1'),
    ({'dataset': 'folder:/nowhere'}, 'no such folder'),
    ({'dataset': 'imagnet2012'}, "'imagnet2012': not known"),
    ({'dataset': '/nowhere'}, r'/nowhere: no dataset_info\.json there'),
  ],
)
def test_bad_arguments(folder, tmp_path, options, match):
  options = {'dataset': f'folder:{folder}', 'out': tmp_path / 'out'} | options
  argv = [f'--{name}={value}' for name, value in options.items()]
  with pytest.raises(ValueError, match=match):
    prepare.rewrite(prepare.parse_args(argv))
  assert not (tmp_path / 'out').exists()


def test_the_command(folder, tmp_path):
  command = [sys.executable, '-m', 'mrl_jax.data.prepare']
  out = f'--out={tmp_path / "out"}'
  result = subprocess.run(
    [*command, f'--dataset=folder:{folder}', '--max_side=20', out],
    capture_output=True,
    text=True,
  )
  assert result.stderr == ''
  assert 'train: 6 images' in result.stdout
  (tmp_path / 'out' / 'folder-val.array_record-00000-of-00001').unlink()
  result = subprocess.run(
    [*command, out, '--verify'], capture_output=True, text=True
  )
  assert result.returncode == 1
  assert result.stderr.startswith('ValueError: ')
  assert result.stderr.count('\n') == 1


def fail_at_three(number):
  if number == 3:
    raise ValueError('three')
  time.sleep(0.01 if number < 3 else 60)
  return -number


def test_a_failure_ends_all_processes():
  found = processes.run(fail_at_three, [1, 2, 3, 4], 2)
  begin = time.monotonic()
  with pytest.raises(ValueError, match='three'):
    list(found)
  assert time.monotonic() - begin < 30
