"""Pictures with captions of a prepared TFDS dataset, as `coco_captions` is."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow_datasets as tfds

from mrl_jax.data.pairs import sources
from mrl_jax.data.sources import directory
from mrl_jax.data.sources import tf_example
from mrl_jax.data.sources import tfds_builder
from mrl_jax.data.text import tfds as text_tfds

_IMAGE = 'image'
_NAMES = ('image/filename', 'file_name')


class Record(NamedTuple):
  """The image of an example of TFDS, read anew each time."""

  records: Sequence[bytes]
  index: int
  key: str

  def read(self) -> bytes:
    """The encoded image."""
    return tf_example.parse(self.records[self.index])[_IMAGE][0]


def open_split(path: str, caption: str, data_dir: str = '') -> sources.Pairs:
  """Opens a split with a feature `image`, and one of one or several captions.

  All its records are read once, for their captions.

  Args:
    path: `tfds:NAME:SPLIT`, see `data.text.tfds`.
    caption: the feature of the captions, or its name within `captions`, as
      COCO's `captions/text`; `captions` and `caption` are found, too.
    data_dir: where TFDS has its datasets; empty: its own place.

  Raises:
    ValueError: the dataset is not prepared, lacks the split or such features,
      has a caption that is not UTF-8, or no pair is left.
  """
  dataset, split = text_tfds.name_and_split(path)
  builder = tfds_builder.open_prepared(dataset, data_dir)
  tfds_builder.check_random_access(dataset, builder)
  feature = _caption_feature(path, builder.info.features, caption)
  records = text_tfds.data_source(
    path,
    builder,
    split,
    deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
  )

  def read(index: int) -> tuple[Record, list[str]]:
    found = tf_example.parse(records[index])
    named = [found[x][0].decode() for x in _NAMES if found.get(x)]
    key = named[0] if named else f'{split}[{index}]'
    try:
      texts = [x.decode().strip() for x in found.get(feature, ())]
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{path}, {key}: is not UTF-8 at byte {error.start}'
      ) from None
    return Record(records, index, key), [x for x in texts if x]

  return sources.join(
    directory.in_threads(read, range(len(records))),
    (),
    builder.data_dir,
    text_tfds.listing_of(builder, split),
  )


def _caption_feature(path: str, features, caption: str) -> str:
  """The stored name of the captions; ValueError if there is none."""
  there = {
    '/'.join(names)
    for names, feature in _leaves(features)
    if isinstance(feature, tfds.features.Text)
  }
  for name in (caption, f'captions/{caption}', 'captions', 'caption'):
    if name in there and _IMAGE in features:
      return name
  raise ValueError(
    f'{path}: needs a feature {_IMAGE}, and one of captions {caption!r}, '
    f'captions/{caption}, captions or caption; has {", ".join(features)}'
  )


def _leaves(feature, names: tuple[str, ...] = ()):
  """Each feature that holds values, and the names by which it is reached."""
  inner = feature
  if isinstance(feature, tfds.features.Sequence):
    inner = feature.feature
  if isinstance(inner, tfds.features.FeaturesDict):
    for name in inner:
      yield from _leaves(inner[name], (*names, name))
  else:
    yield names, inner
