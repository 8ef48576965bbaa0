"""Opens a split of a dataset: of TFDS, or of a folder of class folders."""

from collections.abc import Sequence
import pathlib

from mrl_jax.data.sources import folders
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX

# Values of `as_seen`; `auto`: images of folders are read as people see them.
AS_SEEN = ('auto', 'yes', 'no')


def open_source(
  dataset: str,
  split: str,
  data_dir: str = '',
  *,
  as_seen: str = 'auto',
  check: bool = True,
) -> Source:
  """Opens a split of a dataset.

  Args:
    dataset: a TFDS name (`imagenet2012`, `cifar10`, …), the built-in `digits`,
      `folder:/path` with `/path/<split>/<class>/<image>`, or the path of what
      `mrl_jax.data.prepare --out` wrote.
    split: as TFDS names it (slices such as `train[:90%]` work), or the folder's
      name; where a folder has no `train`, see `folders.open_split`.
    data_dir: where TFDS datasets are; empty: TFDS's default.
    as_seen: turn images as their EXIF orientation says, and lay transparent
      ones over white: yes, no, or auto: images of folders alone.
    check: whether the first bytes of a folder's files must be an image's.

  Raises ValueError if there is nothing to read, saying how to get it.
  """
  if dataset.startswith(FOLDER_PREFIX):
    return folders.open_split(
      dataset.removeprefix(FOLDER_PREFIX),
      split,
      as_seen=as_seen != 'no',
      check=check,
    )
  # TFDS takes seconds to import.
  from mrl_jax.data.sources.tfds import TfdsSource

  return TfdsSource(dataset, split, data_dir, as_seen=as_seen)


def split_names(dataset: str, data_dir: str = '') -> tuple[str, ...]:
  """The splits of a dataset; raises ValueError as `open_source` does."""
  if dataset.startswith(FOLDER_PREFIX):
    return folders.split_names(dataset.removeprefix(FOLDER_PREFIX))
  from mrl_jax.data.sources import tfds_builder

  splits = tfds_builder.open_prepared(dataset, data_dir).info.splits
  return tuple(name for name, split in splits.items() if split.num_examples)


def class_roots(dataset: str, splits: Sequence[str]) -> list[pathlib.Path]:
  """The folders in which these splits have class folders; none for TFDS."""
  if not dataset.startswith(FOLDER_PREFIX):
    return []
  path = pathlib.Path(dataset.removeprefix(FOLDER_PREFIX)).expanduser()
  if folders.is_unsplit(path):
    return [path]
  return [path / split for split in splits]
