"""Finds TFDS datasets: by name or by path, prepared or with a hint how to."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shlex

from absl import logging
import tensorflow_datasets as tfds

from mrl_jax.data.sources.digits import Digits

# Archives that are downloaded by hand, by the name of their dataset.
_ARCHIVES = {
  'imagenet2012': ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
  'imagenet2012_real': ('ILSVRC2012_img_val.tar',),
}
# A file by which a dataset's folder is recognised.
_INFO = 'dataset_info.json'


@contextlib.contextmanager
def _only_errors_logged() -> Iterator[None]:
  # TFDS warns of a folder without a dataset in it, which another process may be
  # writing.
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


@_only_errors_logged()
def open_prepared(dataset: str, data_dir: str = '') -> tfds.core.DatasetBuilder:
  """The builder of a prepared dataset; the digits are prepared if need be.

  Raises ValueError if there is no such dataset, or it is not prepared (saying
  how to).
  """
  builder = find(dataset, data_dir)
  if not is_prepared(dataset, builder):
    data_dir = _data_dir(data_dir)
    raise ValueError(
      f'dataset {dataset} is not prepared in {data_dir}: '
      + _command(dataset, data_dir)
    )
  if builder.name == Digits.name and not _is_path(dataset):
    return _prepare_digits(data_dir)
  return builder


@_only_errors_logged()
def is_prepared(dataset: str, builder: tfds.core.DatasetBuilder) -> bool:
  """Whether `open_prepared` can open a dataset that `find` has found."""
  # TFDS takes a folder for unprepared if it is not named as a version is.
  is_there = _is_path(dataset) or builder.is_prepared()
  return is_there or builder.name == Digits.name


@_only_errors_logged()
def find(dataset: str, data_dir: str = '') -> tfds.core.DatasetBuilder:
  """The builder of a dataset, by name (prepared or not) or by path.

  A dataset that is not prepared will be in ArrayRecord files. Raises ValueError
  for a name that TFDS does not know, or a path without a dataset.
  """
  if _is_path(dataset):
    return _open_folder(dataset)
  data_dir = _data_dir(data_dir)
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


def describe(
  dataset: str, data_dir: str = ''
) -> tuple[str, str, tuple[str, ...]]:
  """Name, version and classes of a dataset, which need not be prepared.

  Raises ValueError as `find` does, or for a dataset without classes.
  """
  builder = find(dataset, data_dir)
  features = builder.info.features
  if 'label' not in features or not features['label'].num_classes:
    raise ValueError(f'dataset {dataset}: needs a feature label with classes')
  return builder.name, str(builder.version), tuple(features['label'].names)


def check_random_access(
  dataset: str, builder: tfds.core.DatasetBuilder
) -> None:
  """Raises ValueError for a dataset whose format is read in order only."""
  formats = builder.info.available_file_formats()
  if not formats.isdisjoint(tfds.core.FileFormat.with_random_access()):
    return
  remedy = 'give its TFDS name'
  if not _is_path(dataset):
    command = _command(dataset, str(builder.data_dir_root))
    remedy = f'move {builder.data_dir} away, then {command}'
  raise ValueError(
    f'dataset {dataset} is prepared as {builder.info.file_format.value}, which '
    f'has no random access: {remedy}'
  )


def _is_path(dataset: str) -> bool:
  """Whether a dataset is named by the folder of its files."""
  path = pathlib.Path(dataset).expanduser()
  looks_like_one = dataset.startswith(('/', './', '../', '~'))
  return looks_like_one or (path / _INFO).is_file()


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
  builder = find(Digits.name, data_dir)
  if builder.is_prepared():
    return builder
  with (
    open(os.devnull, 'w', encoding='utf-8') as null,
    contextlib.redirect_stdout(null),
  ):
    try:
      builder.download_and_prepare()
    except OSError:
      # Another process may have been first.
      builder = find(Digits.name, data_dir)
      if not builder.is_prepared():
        raise
  return builder


def _command(dataset: str, data_dir: str) -> str:
  """Names the manual downloads, and the command that prepares a dataset."""
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
