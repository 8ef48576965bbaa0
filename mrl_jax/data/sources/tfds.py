"""A split of a prepared TFDS dataset, read by random access.

TensorFlow is not needed to read ArrayRecord files, nor to prepare `digits`.
"""

from collections.abc import Iterator
import contextlib
import copy
import os
import pathlib
import shlex

from absl import logging
import tensorflow_datasets as tfds

from mrl_jax.data.prepare import manifest
from mrl_jax.data.sources import digits
from mrl_jax.data.sources.example import Example

_ARCHIVES = {
  'imagenet2012': ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
  'imagenet2012_real': ('ILSVRC2012_img_val.tar',),
}


# What makes a folder one of TFDS's.
_INFO = 'dataset_info.json'
# The name of a dataset that was made of a folder.
_FOLDER = 'folder'


class TfdsSource:
  """Encoded images and labels of a TFDS image classification dataset."""

  def __init__(
    self,
    dataset: str,
    split: str,
    data_dir: str = '',
    *,
    label: str = 'label',
    labels: str = '',
    as_seen: str = 'auto',
  ):
    """Raises ValueError for what is unknown, or not prepared (and says how).

    `label` is the feature with the class, `labels` one with several. For
    `as_seen` see `source.open_source`.
    """
    builder = open_prepared(dataset, data_dir)
    features = builder.info.features
    needed = {'image', label, *filter(None, [labels])}
    if not needed <= set(features):
      raise ValueError(
        f'dataset {dataset}: needs features {" and ".join(sorted(needed))}, '
        f'has {tuple(features)}'
      )
    self._label, self._labels = label, labels
    self._several: dict[int, tuple[int, ...]] = {}
    try:
      self._records = builder.as_data_source(
        split=split, decoders={'image': tfds.decode.SkipDecoding()}
      )
    except NotImplementedError:
      raise ValueError(_how_to_replace(dataset, builder)) from None
    except ValueError as error:
      line = str(error).partition('\n')[0]
      raise ValueError(f'dataset {dataset}, split {split!r}: {line}') from None
    if not len(self._records):
      raise ValueError(f'split {split!r} of dataset {dataset} is empty')
    self.folder = str(builder.data_dir)
    self.name, self.version = builder.name, str(builder.version)
    self.class_names = tuple(features[label].names)
    self.num_classes = features[label].num_classes
    self._split = split
    self._as_seen = as_seen == 'yes' or (
      as_seen == 'auto' and manifest.is_as_seen(builder.data_dir)
    )
    self._info = builder.info.splits[split]
    self._indices = range(len(self._records))

  def __len__(self) -> int:
    return len(self._indices)

  def read(self, index: int) -> Example:
    index = self._indices[index]
    record = self._records[index]
    key = record.get('file_name', f'{self._split}[{index}]')
    if isinstance(key, bytes):
      key = key.decode()
    if self._labels:
      # Kept, so that the images need not be read again for them.
      self._several[index] = tuple(map(int, record[self._labels]))
    label = int(record[self._label])
    return Example(record['image'], label, key, self._as_seen)

  def listing(self) -> dict[str, str]:
    """For each file that the split is read from, what it is a part of.

    Files that `prepare` made of a folder come with their size: two folders have
    the same name and version.
    """
    found = {}
    for x in self._info.file_instructions:
      size = os.path.getsize(x.filename) if self.name == _FOLDER else ''
      part = f'{os.path.basename(x.filename)}[{x.skip}:{x.skip + x.take}]'
      found[part] = f'{x.take} of {x.examples_in_shard} examples {size}'
    return found

  def labels(self, index: int) -> tuple[int, ...]:
    """All classes of an example, by the feature `labels`; may be empty."""
    record = self._indices[index]
    if record not in self._several:
      self.read(index)
    return self._several[record]

  def part(self, start: int, stop: int) -> 'TfdsSource':
    """The examples from `start` up to `stop`, under the same keys."""
    part = copy.copy(self)
    part._indices = self._indices[start:stop]
    return part


def open_prepared(dataset: str, data_dir: str = '') -> tfds.core.DatasetBuilder:
  """The builder of a prepared dataset; the digits are prepared if need be.

  Raises ValueError for what is unknown, or not prepared (and says how).
  """
  if _is_path(dataset):
    return _open_folder(dataset)
  data_dir = _data_dir(data_dir)
  # A folder without a dataset in it is no reason to warn.
  with _only_errors_logged():
    builder = open_builder(dataset, data_dir)
    if not builder.is_prepared() and builder.name == digits.Digits.name:
      builder = _prepare_digits(data_dir)
    prepared = builder.is_prepared()
  if not prepared:
    raise ValueError(_how_to_prepare(dataset, data_dir))
  return builder


def describe(
  dataset: str, data_dir: str = ''
) -> tuple[str, str, tuple[str, ...]]:
  """Name, version and classes of a dataset, which need not be prepared.

  Raises ValueError for a name that TFDS does not know, or without classes.
  """
  if _is_path(dataset):
    builder = _open_folder(dataset)
  else:
    with _only_errors_logged():
      builder = open_builder(dataset, _data_dir(data_dir))
  features = builder.info.features
  if 'label' not in features or not features['label'].num_classes:
    raise ValueError(f'dataset {dataset}: needs a feature label with classes')
  return builder.name, str(builder.version), tuple(features['label'].names)


def is_prepared(dataset: str, data_dir: str = '') -> bool:
  """Whether there is nothing to do before `open_prepared`.

  Raises ValueError for a name that TFDS does not know.
  """
  if _is_path(dataset):
    return True
  with _only_errors_logged():
    builder = open_builder(dataset, _data_dir(data_dir))
    return builder.is_prepared() or builder.name == digits.Digits.name


def open_builder(dataset: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """The TFDS builder; for ArrayRecord, where nothing is prepared yet.

  Raises ValueError for a name that TFDS does not know.
  """
  try:
    builder = tfds.builder(dataset, data_dir=data_dir)
    if builder.is_prepared():
      return builder
    return tfds.builder(dataset, data_dir=data_dir, file_format='array_record')
  except tfds.core.DatasetNotFoundError:
    raise ValueError(
      f'dataset {dataset!r}: not known to TFDS; for your own images give '
      'folder:/path'
    ) from None
  except (AssertionError, ValueError) as error:  # Its version, or its form.
    line = str(error).strip().partition('\n')[0]
    raise ValueError(f'dataset {dataset!r}: {line}') from None


def _is_path(dataset: str) -> bool:
  """Whether it is a folder that TFDS's files are in, and not a name."""
  path = pathlib.Path(dataset).expanduser()
  named_so = dataset.startswith(('/', './', '../', '~'))
  return named_so or (path / _INFO).is_file()


def _open_folder(dataset: str) -> tfds.core.DatasetBuilder:
  path = pathlib.Path(dataset).expanduser()
  if not (path / _INFO).is_file():
    raise ValueError(
      f'dataset {dataset}: no {_INFO} there, so nothing that python -m '
      'mrl_jax.data.prepare --out has written to its end; for a folder of '
      'class folders give folder:/path'
    )
  return tfds.builder_from_directory(path)


def _data_dir(data_dir: str) -> str:
  return os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)


def _prepare_digits(data_dir: str) -> tfds.core.DatasetBuilder:
  # TFDS draws progress bars and prints; there is nothing to wait for here.
  tfds.disable_progress_bar()
  builder = open_builder(digits.Digits.name, data_dir)
  with (
    open(os.devnull, 'w', encoding='utf-8') as null,
    contextlib.redirect_stdout(null),
  ):
    try:
      builder.download_and_prepare()
    except OSError:
      # Another process may have been first.
      builder = open_builder(digits.Digits.name, data_dir)
      if not builder.is_prepared():
        raise
  return builder


@contextlib.contextmanager
def _only_errors_logged() -> Iterator[None]:
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def check_random_access(
  dataset: str, builder: tfds.core.DatasetBuilder
) -> None:
  """Raises ValueError if it is prepared in a format that is read in order."""
  formats = builder.info.available_file_formats()
  if formats.isdisjoint(tfds.core.FileFormat.with_random_access()):
    raise ValueError(_how_to_replace(dataset, builder))


def _how_to_replace(dataset: str, builder: tfds.core.DatasetBuilder) -> str:
  found = (
    f'dataset {dataset} is prepared as {builder.info.file_format.value}, which '
    'has no random access'
  )
  if _is_path(dataset):
    return f'{found}: give its TFDS name'
  command = _command(dataset, str(builder.data_dir_root))
  return f'{found}: move {builder.data_dir} away, then {command}'


def _how_to_prepare(dataset: str, data_dir: str) -> str:
  """What to put where, and the command that prepares the dataset."""
  return f'dataset {dataset} is not prepared in {data_dir}: ' + _command(
    dataset, data_dir
  )


def _command(dataset: str, data_dir: str) -> str:
  command = [f'--dataset={dataset}', f'--data_dir={data_dir}']
  archives = _ARCHIVES.get(dataset.partition('/')[0].partition(':')[0])
  first = ''
  if archives:
    manual_dir = os.path.join(data_dir, 'downloads', 'manual')
    first = f'put {" and ".join(archives)} into {manual_dir}, then '
  return (
    f'{first}run: pip install tensorflow-cpu && python -m mrl_jax.data.prepare '
    + shlex.join(command)
  )
