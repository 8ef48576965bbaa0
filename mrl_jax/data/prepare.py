"""Prepares a TFDS dataset as ArrayRecord files, which allow random access.

    python -m mrl_jax.data.prepare --dataset=imagenet2012 --data_dir=DIR

Datasets that TFDS cannot download, such as imagenet2012, are read from archives
in DIR/downloads/manual, or in --manual_dir. Needs TensorFlow (tensorflow-cpu);
reading what is prepared does not.
"""

import importlib.util
import os
import sys

from absl import app
from absl import flags
import tensorflow_datasets as tfds

from mrl_jax.data import tfds_source

_DATASET = flags.DEFINE_string('dataset', None, 'TFDS name.', required=True)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', '', "Where to write; default: TFDS's own folder."
)
_MANUAL_DIR = flags.DEFINE_string(
  'manual_dir', '', 'Where the archives are; default: DIR/downloads/manual.'
)


def prepare(dataset: str, data_dir: str = '', manual_dir: str = '') -> None:
  """Prepares all splits; what is prepared already is left as it is.

  Raises ValueError if TensorFlow is missing, or TFDS cannot find the archives.
  """
  if importlib.util.find_spec('tensorflow') is None:
    raise ValueError('TensorFlow is missing: pip install tensorflow-cpu')
  data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
  builder = tfds_source.open_builder(dataset, data_dir)
  download_config = tfds.download.DownloadConfig(
    manual_dir=os.path.expanduser(manual_dir) if manual_dir else None
  )
  try:
    builder.download_and_prepare(download_config=download_config)
  # How TFDS says that the manual folder is missing, or an archive in it.
  except (AssertionError, FileNotFoundError) as error:
    raise ValueError(str(error).replace('\n', ' ')) from error
  for name, split in builder.info.splits.items():
    print(f'{dataset} {name}: {split.num_examples:,} examples')
  print(f'in {builder.data_dir}')


def main(argv: list[str]) -> None:
  del argv
  try:
    prepare(_DATASET.value, _DATA_DIR.value, _MANUAL_DIR.value)
  except ValueError as error:
    sys.exit(f'ValueError: {error}')


if __name__ == '__main__':
  app.run(main)
