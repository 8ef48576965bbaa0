"""Features of a prepared TFDS dataset, as columns of texts.

Texts are named by `tfds:NAME:SPLIT`, as `tfds:glue/stsb:train`, where TFDS has
its datasets (TFDS_DATA_DIR), or by the folder of a dataset's version in place
of the name.
"""

from collections.abc import Iterator, Sequence
import os
from typing import Any

import numpy as np

PREFIX = 'tfds:'


def is_named(path: str | os.PathLike) -> bool:
  """Whether texts are those of a TFDS dataset, by their name."""
  return str(path).startswith(PREFIX)


def rows(path: str, columns: Sequence[str | int]) -> Iterator[list[Any]]:
  """The values of the features `columns`, of every example of the split.

  Bytes become text, and classes their names. Raises ValueError for a name that
  is none, a dataset that is not prepared, a split or a feature that it lacks,
  which names those there are, or bytes that are not UTF-8.
  """
  records, builder, _ = _open(path)
  features = builder.info.features
  for column in columns:
    if column not in features:
      raise ValueError(
        f'{path}: has no column {column!r}; there are: {", ".join(features)}'
      )
  names = {x: getattr(features[x], 'names', None) for x in columns}
  for number, record in enumerate(records):
    try:
      yield [_plain(record[x], names[x]) for x in columns]
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{path}, row {number}: is not UTF-8 at byte {error.start}'
      ) from None


def listing(path: str) -> dict[str, str]:
  """The examples of each file of the split, and the file's size."""
  _, builder, split = _open(path)
  return listing_of(builder, split)


def listing_of(builder: Any, split: str) -> dict[str, str]:
  """The same of a builder's split."""
  found = {}
  for x in builder.info.splits[split].file_instructions:
    part = f'{os.path.basename(x.filename)}[{x.skip}:{x.skip + x.take}]'
    size = os.path.getsize(x.filename)
    found[part] = f'{x.take} of {x.examples_in_shard} examples, {size} bytes'
  return found


def name_and_split(path: str) -> tuple[str, str]:
  """The dataset and the split of `tfds:NAME:SPLIT`; ValueError without one."""
  dataset, colon, split = path.removeprefix(PREFIX).rpartition(':')
  if not colon or not dataset or not split:
    raise ValueError(f'{path!r}: must be {PREFIX}NAME:SPLIT')
  return dataset, split


def data_source(path: str, builder: Any, split: str, **options: Any) -> Any:
  """The records of a builder's split; ValueError, with `path`, without one."""
  try:
    return builder.as_data_source(split=split, **options)
  except ValueError as error:
    line = str(error).partition('\n')[0]
    raise ValueError(f'{path}: split {split!r}: {line}') from None


def _open(path: str):
  dataset, split = name_and_split(path)
  # Importing TFDS takes seconds.
  from mrl_jax.data.sources import tfds_builder

  builder = tfds_builder.open_prepared(dataset)
  tfds_builder.check_random_access(dataset, builder)
  return data_source(path, builder, split), builder, split


def _plain(value: Any, names: Sequence[str] | None) -> Any:
  if isinstance(value, bytes):
    return value.decode()
  if isinstance(value, np.ndarray) and value.ndim:
    return [_plain(x, names) for x in value]
  if isinstance(value, np.generic | np.ndarray):
    value = value.item()
  # An example without a class has the number -1.
  is_class = names and isinstance(value, int) and 0 <= value < len(names)
  return names[value] if is_class else value
