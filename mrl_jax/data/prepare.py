"""Prepares a TFDS dataset as ArrayRecord files, which allow random access.

    python -m mrl_jax.data.prepare --dataset=imagenet2012 --data_dir=DIR

Datasets that TFDS cannot download, such as imagenet2012, are read from archives
in DIR/downloads/manual, or in --manual_dir. Needs TensorFlow (tensorflow-cpu);
reading what is prepared does not.
"""

import argparse
import importlib.util
import os
import sys

from absl import logging
import tensorflow_datasets as tfds

from mrl_jax.data import tfds_source


def prepare(dataset: str, data_dir: str = '', manual_dir: str = '') -> None:
  """Prepares all splits; what is prepared already is left as it is.

  Raises ValueError if TensorFlow is missing, or TFDS cannot find the archives.
  """
  if importlib.util.find_spec('tensorflow') is None:
    raise ValueError('TensorFlow is missing: pip install tensorflow-cpu')
  logging.set_verbosity(logging.ERROR)
  data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
  builder = tfds_source.open_builder(dataset, data_dir)
  download_config = tfds.download.DownloadConfig(
    manual_dir=os.path.expanduser(manual_dir) if manual_dir else None
  )
  try:
    builder.download_and_prepare(download_config=download_config)
  # How TFDS says that the manual folder is missing, or an archive in it.
  except (AssertionError, FileNotFoundError) as error:
    raise ValueError(' '.join(str(error).split())) from error
  for name, split in builder.info.splits.items():
    print(f'{dataset} {name}: {split.num_examples:,} examples')
  print(f'in {builder.data_dir}')


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.data.prepare', description=__doc__.split('\n')[0]
  )
  parser.add_argument('--dataset', required=True, help='TFDS name')
  parser.add_argument(
    '--data_dir', default='', help="where to write; default: TFDS's own folder"
  )
  parser.add_argument(
    '--manual_dir',
    default='',
    help='where the archives are; default: DATA_DIR/downloads/manual',
  )
  args = parser.parse_args()
  try:
    prepare(args.dataset, args.data_dir, args.manual_dir)
  except ValueError as error:
    sys.exit(f'ValueError: {error}')


if __name__ == '__main__':
  main()
