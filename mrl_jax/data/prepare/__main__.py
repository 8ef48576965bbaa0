"""Prepares a TFDS dataset as ArrayRecord files, which allow random access.

    python -m mrl_jax.data.prepare --dataset=imagenet2012 --data_dir=DIR

Datasets that TFDS cannot download, such as imagenet2012, are read from archives
in DIR/downloads/manual, or in --manual_dir. Needs TensorFlow (tensorflow-cpu);
reading what is prepared does not.

    python -m mrl_jax.data.prepare --dataset=NAME --max_side=500 --out=OUT
    python -m mrl_jax.data.prepare --out=OUT --verify

The first writes a dataset (also folder:/path) a second time, to be read with
--config.dataset=OUT, and needs TensorFlow only for what is not prepared yet.
The second compares OUT with its manifest.json.
"""

import argparse
from collections.abc import Sequence
import importlib.util
import os
import urllib.parse

from absl import logging
import tensorflow_datasets as tfds

from mrl_jax.data.prepare import manifest
from mrl_jax.data.prepare.rewrite import write_dataset
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.sources import tfds_builder
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.workdir import files


def prepare(dataset: str, data_dir: str = '', manual_dir: str = '') -> None:
  """Prepares all splits of a TFDS dataset, if they are not prepared already.

  Raises ValueError if TensorFlow is missing, TFDS cannot find the archives,
  download or read them, or what is prepared has no random access.
  """
  if importlib.util.find_spec('tensorflow') is None:
    raise ValueError('TensorFlow is missing: pip install tensorflow-cpu')
  logging.set_verbosity(logging.ERROR)
  data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
  builder = tfds_builder.find(dataset, data_dir)
  if builder.is_prepared():
    tfds_builder.check_random_access(dataset, builder)
  download_config = tfds.download.DownloadConfig(
    manual_dir=os.path.expanduser(manual_dir) if manual_dir else None
  )
  try:
    builder.download_and_prepare(download_config=download_config)
  # TFDS says so that the manual folder is missing, or an archive in it.
  except (AssertionError, FileNotFoundError) as error:
    raise ValueError(' '.join(str(error).split())) from error
  # A failed download and an incomplete archive raise many types.
  except Exception as error:
    line = f'dataset {dataset}: {type(error).__name__}: {error}'
    # The system's own words are enough for a full disk and the like.
    if not getattr(error, 'errno', None):
      where = manual_dir or os.path.join(data_dir, 'downloads', 'manual')
      line += '; ' + _advice(builder, where, str(error))
    raise ValueError(line) from error
  for name, split in builder.info.splits.items():
    print(f'{dataset} {name}: {split.num_examples:,} examples')
  print(f'in {builder.data_dir}')


def _advice(
  builder: tfds.core.DatasetBuilder, manual_dir: str, said: str
) -> str:
  """Tells what to do after TFDS has failed to prepare a dataset."""
  files = [
    f'{url} as {os.path.join(manual_dir, info.filename)}'
    for url, info in (builder.url_infos or {}).items()
    if urllib.parse.urlsplit(url).path in said and info.filename
  ]
  if files:
    return f'download it yourself: {" and ".join(files)}, and run this again'
  return f'is an archive in {manual_dir} incomplete?'


def rewrite(args: argparse.Namespace) -> None:
  """Writes a dataset to `--out`, with smaller images; prepares it if need be.

  Raises ValueError for arguments that `write_dataset` or `prepare` refuses.
  """
  jpeg = _jpeg_settings(args)
  if args.workers < 0:
    raise ValueError(f'--workers={args.workers}: must be at least 0')
  if not args.dataset.startswith(FOLDER_PREFIX):
    builder = tfds_builder.find(args.dataset, args.data_dir)
    if not tfds_builder.is_prepared(args.dataset, builder):
      prepare(args.dataset, args.data_dir, args.manual_dir)
  written = write_dataset(
    args.dataset,
    args.out,
    data_dir=args.data_dir,
    jpeg=jpeg,
    workers=args.workers,
  )
  print('\n'.join(manifest.summary(written)))
  print(f'to be read with --config.dataset={args.out}')


def verify(out: str, *, workers: int = 0) -> None:
  """Compares a written dataset with its manifest, and prints a summary."""
  found = manifest.verify(files.local(out, '--out'), workers=workers)
  print('\n'.join(manifest.summary(found)))
  print(f'{len(found["shards"]):,} shards are as {manifest.NAME} says')


def main(argv: Sequence[str] | None = None) -> None:
  args = parse_args(argv)
  with ending.in_one_line():
    if args.out is None:
      _check_no_out(args)
      prepare(args.dataset, args.data_dir, args.manual_dir)
    elif args.verify:
      verify(args.out, workers=args.workers)
    else:
      rewrite(args)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.data.prepare', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--dataset', help='TFDS name; with --out also folder:/path')
  add('--data_dir', default='', help="folder of TFDS; default: TFDS's own")
  add(
    '--manual_dir',
    default='',
    help='where the archives are; default: DATA_DIR/downloads/manual',
  )
  add(
    '--out',
    type=arguments.path,
    help='folder to write the dataset to, as training is to read it',
  )
  add(
    '--max_side',
    type=int,
    help='pixels; larger images are scaled down, and all become RGB JPEGs; '
    'default: every image is copied',
  )
  add('--quality', type=int, help='of new JPEGs, 1 to 100; default: 90')
  add(
    '--reencode_all',
    action='store_true',
    help='also the JPEGs that are small enough, to --quality: fewer bytes to '
    'decode, some of their detail lost',
  )
  add(
    '--lossless',
    action='store_true',
    help='JPEGs that are small enough keep their pixels, and are written so '
    'that a crop can be decoded alone; needs the program jpegtran',
  )
  add(
    '--raw_share',
    type=float,
    help='share of the images that are stored as their pixels, 0 to 1: nine '
    'times the bytes, and nothing to decode; default: 0',
  )
  add('--workers', type=int, default=0, help='processes; default: one a core')
  add('--verify', action='store_true', help='compares --out with its manifest')
  args = parser.parse_args(argv)
  if args.dataset is None and not args.verify:
    parser.error('--dataset is missing')
  return args


def _jpeg_settings(args: argparse.Namespace) -> JpegSettings | None:
  if args.max_side is None:
    if args.quality is not None:
      raise ValueError('--quality needs --max_side: without it all is copied')
    for name in ('reencode_all', 'raw_share', 'lossless'):
      if getattr(args, name):
        raise ValueError(f'--{name} needs --max_side')
    return None
  if args.max_side < 1:
    raise ValueError(f'--max_side={args.max_side}: must be at least 1')
  quality = 90 if args.quality is None else args.quality
  if not 1 <= quality <= 100:
    raise ValueError(f'--quality={quality}: must be in 1..100')
  if args.lossless and args.reencode_all:
    raise ValueError('--lossless and --reencode_all exclude each other')
  raw_share = args.raw_share or 0.0
  if not 0 <= raw_share <= 1:
    raise ValueError(f'--raw_share={raw_share}: must be in 0..1')
  return JpegSettings(args.max_side, quality, not args.reencode_all, raw_share)


def _check_no_out(args: argparse.Namespace) -> None:
  flags = 'max_side', 'quality', 'reencode_all', 'raw_share', 'lossless'
  for name in (*flags, 'workers', 'verify'):
    if getattr(args, name):
      raise ValueError(f'--{name} needs --out')


if __name__ == '__main__':
  main()
