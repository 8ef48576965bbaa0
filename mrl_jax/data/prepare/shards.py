"""The ArrayRecord files of a dataset, and what TFDS finds them by."""

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
from mrl_jax.data.prepare import shrink
from mrl_jax.data.sources.example import Source
from mrl_jax.workdir import files

# More would keep more files open in training than many systems allow.
_MOST_SHARDS = 512
# More would leave workers idle at the end, fewer make tiny files.
_LEAST_IMAGES = 256


class Shard(NamedTuple):
  """A file to write, and all that its bytes depend on.

  Attributes:
    path: of the file.
    record_path: of what `write` tells of it, once it is there.
    split: it belongs to.
    part: the examples, all of which come into it.
    max_side: see `jpeg.reencode`; 0 leaves the images as they are.
    quality: likewise; None where max_side is 0.
    keep: likewise.
  """

  path: pathlib.Path
  record_path: pathlib.Path
  split: str
  part: Source
  max_side: int
  quality: int | None
  keep: bool


def features(
  class_names: Sequence[str], *, is_jpeg: bool
) -> tfds.features.FeaturesDict:
  """What TFDS reads out of a record."""
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
  *,
  max_side: int,
  quality: int | None,
  keep: bool = True,
  shard_images: int = 0,
) -> list[Shard]:
  """The shards of a split, alike in size to an image.

  Args:
    opened: the split.
    split: its name.
    out: folder of the shards.
    records: folder of their records.
    max_side: see `Shard`.
    quality: see `Shard`.
    keep: see `Shard`.
    shard_images: the most images a shard has; 0 chooses.
  """
  least = max(_LEAST_IMAGES, -(-len(opened) // _MOST_SHARDS))
  count = -(-len(opened) // (shard_images or least))
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
        max_side,
        quality,
        keep,
      )
    )
  return planned


def write(shard: Shard) -> dict[str, Any]:
  """Writes the file, then its record, which is returned.

  Raises ValueError if the images cannot be read, or the file written.
  """
  record = {'split': shard.split, 'images': 0, 'payload': 0}
  record |= {'reencoded': 0, 'damaged': {}}
  try:
    with files.replacing(shard.path) as temporary:
      writer = array_record_module.ArrayRecordWriter(
        os.fspath(temporary), 'group_size:1'
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
  """Writes what TFDS and `source.open_source` recognise a dataset by.

  Args:
    shard: any of the dataset.
    records: what `write` returned of each, in their order.
  """
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
    features=features(shard.part.class_names, is_jpeg=bool(shard.max_side)),
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


def _payloads(shard: Shard, record: dict[str, Any]) -> Iterator[bytes]:
  """Each example as TFDS stores it; counts in `record` what was changed."""
  encoder = features(shard.part.class_names, is_jpeg=bool(shard.max_side))
  serializer = tfds.core.example_serializer.ExampleSerializer(
    encoder.get_serialized_info()
  )
  for index in range(len(shard.part)):
    data, label, key, as_seen = shard.part.read(index)
    try:
      image = _encode(data, shard, as_seen)
    except DamagedImageError as error:
      record['damaged'][key] = str(error)
      continue
    record['reencoded'] += image != data
    example = serializer.get_tf_example(
      encoder.encode_example(
        {'image': io.BytesIO(image), 'label': label, 'file_name': key}
      )
    )
    # Else its fields are in no certain order.
    yield example.SerializeToString(deterministic=True)


def _encode(data: bytes, shard: Shard, as_seen: bool) -> bytes:
  if not shard.max_side:
    return data
  return shrink.reencode(
    data,
    max_side=shard.max_side,
    quality=shard.quality,
    keep=shard.keep,
    as_seen=as_seen,
  )
