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
from mrl_jax.data.prepare import rewrite as reencode
from mrl_jax.data.sources import tfds as tfds_source
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.workdir import files


def prepare(dataset: str, data_dir: str = '', manual_dir: str = '') -> None:
  """Prepares all splits; what is prepared already is left as it is.

  Raises ValueError if TensorFlow is missing, TFDS cannot find the archives,
  download or read them, or what is prepared has no random access.
  """
  if importlib.util.find_spec('tensorflow') is None:
    raise ValueError('TensorFlow is missing: pip install tensorflow-cpu')
  logging.set_verbosity(logging.ERROR)
  data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
  builder = tfds_source.open_builder(dataset, data_dir)
  if builder.is_prepared():
    tfds_source.check_random_access(dataset, builder)
  download_config = tfds.download.DownloadConfig(
    manual_dir=os.path.expanduser(manual_dir) if manual_dir else None
  )
  try:
    builder.download_and_prepare(download_config=download_config)
  # How TFDS says that the manual folder is missing, or an archive in it.
  except (AssertionError, FileNotFoundError) as error:
    raise ValueError(' '.join(str(error).split())) from error
  # A failed download and an incomplete archive raise many types.
  except Exception as error:
    line = f'dataset {dataset}: {type(error).__name__}: {error}'
    # What the system refuses, such as a full disk, is told by its own words.
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
  """What to do where TFDS has failed to prepare a dataset."""
  files = [
    f'{url} as {os.path.join(manual_dir, info.filename)}'
    for url, info in (builder.url_infos or {}).items()
    if urllib.parse.urlsplit(url).path in said and info.filename
  ]
  if files:
    return f'download it yourself: {" and ".join(files)}, and run this again'
  return f'is an archive in {manual_dir} incomplete?'


def rewrite(
  dataset: str,
  out: str,
  *,
  data_dir: str = '',
  manual_dir: str = '',
  max_side: int | None = None,
  quality: int | None = None,
  reencode_all: bool = False,
  workers: int = 0,
) -> None:
  """Writes a dataset to `out`, with smaller images; prepares it if need be.

  Raises ValueError for what `reencode.write` or `prepare` does not take.
  """
  if max_side is not None and max_side < 1:
    raise ValueError(f'--max_side={max_side}: must be at least 1')
  if quality is not None and max_side is None:
    raise ValueError('--quality needs --max_side: without it all is copied')
  if reencode_all and max_side is None:
    raise ValueError('--reencode_all needs --max_side')
  if quality is not None and not 1 <= quality <= 100:
    raise ValueError(f'--quality={quality}: must be in 1..100')
  if workers < 0:
    raise ValueError(f'--workers={workers}: must be at least 0')
  is_folder = dataset.startswith(FOLDER_PREFIX)
  if not is_folder and not tfds_source.is_prepared(dataset, data_dir):
    prepare(dataset, data_dir, manual_dir)
  written = reencode.write(
    dataset,
    out,
    data_dir=data_dir,
    max_side=max_side or 0,
    quality=90 if quality is None else quality,
    keep=not reencode_all,
    workers=workers,
  )
  print('\n'.join(manifest.summary(written)))
  print(f'to be read with --config.dataset={out}')


def verify(out: str, *, workers: int = 0) -> None:
  found = manifest.verify(files.local(out, '--out'), workers=workers)
  print('\n'.join(manifest.summary(found)))
  print(f'{len(found["shards"]):,} shards are as {manifest.NAME} says')


def main(argv: Sequence[str] | None = None) -> None:
  args = _parse_args(argv)
  with ending.in_one_line():
    if args.out is None:
      _check_no_out(args)
      prepare(args.dataset, args.data_dir, args.manual_dir)
    elif args.verify:
      verify(args.out, workers=args.workers)
    else:
      rewrite(
        args.dataset,
        args.out,
        data_dir=args.data_dir,
        manual_dir=args.manual_dir,
        max_side=args.max_side,
        quality=args.quality,
        reencode_all=args.reencode_all,
        workers=args.workers,
      )


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.data.prepare', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--dataset', help='TFDS name; with --out also folder:/path')
  add('--data_dir', default='', help="of TFDS datasets; default: TFDS's own")
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
  add('--workers', type=int, default=0, help='processes; default: one a core')
  add('--verify', action='store_true', help='compares --out with its manifest')
  args = parser.parse_args(argv)
  if args.dataset is None and not args.verify:
    parser.error('--dataset is missing')
  return args


def _check_no_out(args: argparse.Namespace) -> None:
  for name in ('max_side', 'quality', 'reencode_all', 'workers', 'verify'):
    if getattr(args, name):
      raise ValueError(f'--{name} needs --out')


if __name__ == '__main__':
  main()
