"""A split of a prepared TFDS dataset, read by random access.

TensorFlow is not needed to read ArrayRecord files, nor to prepare `digits`.
"""

import copy
import os

import tensorflow_datasets as tfds

from mrl_jax.data.prepare import manifest
from mrl_jax.data.sources import tf_example
from mrl_jax.data.sources import tfds_builder
from mrl_jax.data.sources.example import Example


class TfdsSource:
  """Encoded images and labels of an image dataset of TFDS, as a `Source`."""

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
    """Opens a split; arguments and errors are those of `open_source`.

    `label` is the feature with the class, `labels` one with several classes.
    """
    builder = tfds_builder.open_prepared(dataset, data_dir)
    features = builder.info.features
    needed = {'image', label, *filter(None, [labels])}
    if not needed <= set(features):
      raise ValueError(
        f'dataset {dataset}: needs features {" and ".join(sorted(needed))}, '
        f'has {tuple(features)}'
      )
    self._label, self._labels = label, labels
    self._several: dict[int, tuple[int, ...]] = {}
    tfds_builder.check_random_access(dataset, builder)
    try:
      self._records = builder.as_data_source(
        split=split,
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      )
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
    record = tf_example.parse(self._records[index])
    key = f'{self._split}[{index}]'
    if 'file_name' in record:
      key = record['file_name'][0].decode()
    if self._labels:
      # Kept, so that the images need not be read again for them.
      self._several[index] = tuple(record.get(self._labels, ()))
    (image,), (label,) = record['image'], record[self._label]
    return Example(image, label, key, self._as_seen)

  def listing(self) -> dict[str, str]:
    """The examples of each file of the split: `<count> of <count> examples`.

    The size is added for files that `prepare` made of a folder, since all
    folders have the same name and version.
    """
    found = {}
    for x in self._info.file_instructions:
      size = os.path.getsize(x.filename) if self.name == 'folder' else ''
      part = f'{os.path.basename(x.filename)}[{x.skip}:{x.skip + x.take}]'
      found[part] = f'{x.take} of {x.examples_in_shard} examples {size}'
    return found

  def labels(self, index: int) -> tuple[int, ...]:
    """All classes of an example, by the feature `labels`; maybe none."""
    record = self._indices[index]
    if record not in self._several:
      self.read(index)
    return self._several[record]

  def part(self, start: int, stop: int) -> 'TfdsSource':
    """The examples from `start` up to `stop`, under the same keys."""
    part = copy.copy(self)
    part._indices = self._indices[start:stop]
    return part
