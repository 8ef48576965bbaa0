"""Writes the ArrayRecord files of a dataset, and the metadata for TFDS."""

from collections.abc import Iterator, Mapping, Sequence
import io
import itertools
import os
import pathlib
from typing import Any, NamedTuple

from array_record.python import array_record_module
import tensorflow_datasets as tfds

from mrl_jax.data.images.decode import DamagedImageError
from mrl_jax.data.prepare import manifest
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.prepare.shrink import reencode
from mrl_jax.data.sources.example import Source
from mrl_jax.workdir import files

# More would keep more files open in training than many systems allow.
_MOST_SHARDS = 512
# Images in a shard, unless there would be too many shards: with more, workers
# would be idle at the end; with fewer, files would be tiny.
_MOST_IMAGES = 256


class Shard(NamedTuple):
  """A file to write, and all that its bytes depend on.

  Once it is there, its record is at `record_path`. `part` are the examples in
  it; `jpeg` says how images are made smaller, None leaves them as they are.
  """

  path: pathlib.Path
  record_path: pathlib.Path
  split: str
  part: Source
  jpeg: JpegSettings | None


def features(
  class_names: Sequence[str], *, is_jpeg: bool
) -> tfds.features.FeaturesDict:
  """Describes to TFDS what a record holds."""
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(
        shape=(None, None, 3), encoding_format='jpeg' if is_jpeg else None
      ),
      'label': tfds.features.ClassLabel(names=class_names),
      'file_name': tfds.features.Text(),
    }
  )


def plan(
  opened: Source,
  split: str,
  out: pathlib.Path,
  records: pathlib.Path,
  jpeg: JpegSettings | None,
) -> list[Shard]:
  """Cuts a split into shards of equal size, but for one image, in `out`."""
  most = max(_MOST_IMAGES, -(-len(opened) // _MOST_SHARDS))
  count = -(-len(opened) // most)
  edges = [len(opened) * i // count for i in range(count + 1)]
  planned = []
  for i, (start, stop) in enumerate(itertools.pairwise(edges)):
    name = f'{opened.name}-{split}.array_record-{i:05}-of-{count:05}'
    planned.append(
      Shard(
        out / name,
        records / f'{name}.json',
        split,
        opened.part(start, stop),
        jpeg,
      )
    )
  return planned


def write(shard: Shard) -> dict[str, Any]:
  """Writes a shard, then its record, which is returned; or ValueError."""
  record = {'split': shard.split, 'images': 0, 'payload': 0}
  record |= {'reencoded': 0, 'damaged': {}}
  try:
    with files.replacing(shard.path) as temporary:
      options = 'group_size:1'
      if shard.jpeg and shard.jpeg.raw_share:
        options += ',uncompressed'  # It would be decompressed at each read.
      writer = array_record_module.ArrayRecordWriter(
        os.fspath(temporary), options
      )
      for payload in _payloads(shard, record):
        writer.write(payload)
        record['images'] += 1
        record['payload'] += len(payload)
      writer.close()
      record['bytes'] = temporary.stat().st_size
      record['sha256'] = manifest.sha256(temporary)
  except RuntimeError as error:  # ArrayRecord's: a full disk, a broken file.
    raise ValueError(f'{shard.path} is not written: {error}') from error
  files.write_json(shard.record_path, record)
  return record


def write_metadata(
  shard: Shard, records: Mapping[str, Mapping[str, Any]]
) -> None:
  """Writes a dataset's metadata for TFDS, from any shard and all records."""
  out = shard.path.parent
  template = tfds.core.ShardedFileTemplate(
    data_dir=out, dataset_name=shard.part.name, filetype_suffix='array_record'
  )
  lengths, sizes = {}, {}
  for record in records.values():
    split = record['split']
    lengths.setdefault(split, []).append(record['images'])
    sizes[split] = sizes.get(split, 0) + record['payload']
  for split, images in lengths.items():
    if not sum(images):
      raise ValueError(f'every image of split {split!r} is damaged')
  tfds.folder_dataset.write_metadata(
    data_dir=out,
    features=features(shard.part.class_names, is_jpeg=_all_jpegs(shard)),
    split_infos=[
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths[split],
        num_bytes=sizes[split],
        filename_template=template.replace(split=split),
      )
      for split in lengths
    ],
    version=shard.part.version,
    filename_template=template,
    check_data=False,
    supervised_keys=('image', 'label'),
  )


def _all_jpegs(shard: Shard) -> bool:
  return shard.jpeg is not None and not shard.jpeg.raw_share


def _payloads(shard: Shard, record: dict[str, Any]) -> Iterator[bytes]:
  """Encodes each example as TFDS stores it, and counts changes in `record`."""
  encoder = features(shard.part.class_names, is_jpeg=_all_jpegs(shard))
  serializer = tfds.core.example_serializer.ExampleSerializer(
    encoder.get_serialized_info()
  )
  for index in range(len(shard.part)):
    image, label, key, as_seen = shard.part.read(index)
    try:
      if shard.jpeg:
        data, image = image, reencode(image, shard.jpeg, as_seen=as_seen)
        record['reencoded'] += image != data
    except DamagedImageError as error:
      record['damaged'][key] = str(error)
      continue
    example = serializer.get_tf_example(
      encoder.encode_example(
        {'image': io.BytesIO(image), 'label': label, 'file_name': key}
      )
    )
    # Without this, the order of its fields is not certain.
    yield example.SerializeToString(deterministic=True)
